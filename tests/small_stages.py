"""A small stage for tests of engines and runners: it writes a real table and fails in configured ways."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.runtime.engines.engine import StageCall
from pipeline.runtime.execute import WorkItem
from pipeline.runtime.logs import RunLogs
from pipeline.runtime.settings import Settings, runtime
from pipeline.runtime.stage import Inputs, Output, Partition, ReportProgress, Stage
from storage.errors import FatalError, RetryableError
from storage.keys import KeyTerms
from storage.store import Store

SCHEMA = pa.schema([("image_id", pa.int64()), ("process", pa.int64())])


class CountSettings(Settings):
    """`die_at`, `fail_at`, `fail_once_at`: the image id at which it happens; `marks` is a folder for marker files.

    `wait`: the first try of each partition stops at its last image until there is a file `go`.
    """

    marks: Path = runtime(Path())
    die_at: int = runtime(-1)
    fail_at: int = runtime(-1)
    fail_once_at: int = runtime(-1)
    wait: bool = runtime(False)


class CountStage(Stage):
    """Writes one row per image id, with the id of the process that made it."""

    name = "count"
    version = 1
    writes = "counts"
    schema = SCHEMA
    settings: CountSettings

    def partitions(self, dataset: str, store: Store) -> Iterator[Partition]:
        """Eight images in two partitions."""
        for number in range(2):
            yield Partition(f"{dataset}/{number:04d}", tuple(range(1 + 4 * number, 5 + 4 * number)), f"eight-{number}")

    def open(self, uses: Inputs) -> None:
        """Leave a file naming the home, so a test can count how often the stage was opened, and in what environment."""
        (self.settings.marks / f"open-{os.getpid()}").write_text(os.environ["HOME"])

    def run(self, inputs: Inputs, work: Path, report: ReportProgress) -> Output:
        """Write a row per id. Dies and wavers once, fails always at the ids of the settings."""
        for done, image_id in enumerate(inputs.image_ids):
            once = self.settings.marks / f"once-{image_id}"
            if image_id == self.settings.die_at and not once.exists():
                once.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            if image_id == self.settings.fail_once_at and not once.exists():
                once.touch()
                raise RetryableError("the server did not answer")
            if self.settings.wait and image_id == inputs.image_ids[-1] and not once.exists():
                once.write_text(str(os.getpid()))
                while not (self.settings.marks / "go").exists():
                    time.sleep(0.05)
            if image_id == self.settings.fail_at:
                raise FatalError(f"image {image_id} is impossible")
            report(done + 1, len(inputs.image_ids))
        rows = [{"image_id": image_id, "process": os.getpid()} for image_id in inputs.image_ids]
        return Output(pa.Table.from_pylist(rows, schema=SCHEMA))


class SteadyStage(CountStage):
    """The same with equal rows in every process, so that engines can be compared by digests."""

    name = "steady"

    def run(self, inputs: Inputs, work: Path, report: ReportProgress) -> Output:
        """Write a row per id, with 0 as its process."""
        made = super().run(inputs, work, report)
        ids = made.table["image_id"]
        return Output(pa.table({"image_id": ids, "process": pa.array([0] * len(ids), pa.int64())}, schema=SCHEMA))


def count_items(count: int, stage: str = "count") -> list[WorkItem]:
    """That many partitions of two images."""
    terms = [KeyTerms(stage, 1, {}, {"ids": [str(n)]}) for n in range(count)]
    return [WorkItem(stage, f"set/{n:04d}", terms[n], {}, (10 * n, 10 * n + 1)) for n in range(count)]


def count_call(folder: Path, stage: type[CountStage] = CountStage, **settings: Any) -> StageCall:
    """What an engine is given: the stage, and its marks, logs and store in `folder`."""
    folder.mkdir(exist_ok=True)
    logs = RunLogs(folder / "logs", "toy")
    return StageCall(stage, CountSettings(marks=folder, **settings), {}, {}, folder / "store", logs)
