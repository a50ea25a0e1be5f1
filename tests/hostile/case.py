"""A hostile case: something that anyone may have written, what is fed with it, and what must come of it.

Most are fed to a command, or, as a dataset, to the stage that reads it, planned first as a run does.
"""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from rlip_command import rlip

from pipeline.data.datasets.source import DataSource
from pipeline.runtime.stage import Inputs
from pipeline.stages.ingest import IngestSettings, IngestStage
from storage.errors import PipelineError
from storage.local_store import LocalStore

Feed = Callable[[Path], str]
Make = bytes | Callable[[Path], object]


@dataclass(frozen=True)
class Case:
    """`feed` gets an empty folder that it may write to, and returns the outcome; `outcome` is a pattern found in it."""

    kind: str
    name: str
    outcome: str
    feed: Feed


def outcome_of(feed: Feed, folder: Path) -> str:
    """What a feed tells; "refused: ..." for an error with a message, "traceback: ..." for anything else it raises."""
    try:
        return feed(folder)
    except PipelineError as error:
        return f"refused: {error}"
    except BaseException as error:
        return f"traceback: {type(error).__name__}: {error}"


def told(*words: str | Path) -> str:
    """Calls `rlip` and tells its outcome: what it printed, or the message that it refused with."""
    done = rlip(*words)
    said = done.stderr.strip() or done.stdout.strip()
    return f"{ {0: 'passed', 1: 'refused', 2: 'usage'}.get(done.exit_code, done.exit_code) }: {said}"


def sparse(head: bytes = b"") -> Make:
    """A file of a tebibyte that takes no room."""

    def make(path: Path) -> None:
        path.write_bytes(head)
        os.truncate(path, 2**40)

    return make


def written(path: Path, content: Make | str | Any) -> Path:
    """Writes a file of bytes, of text, or of a value as JSON, or lets a function make it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if callable(content):
        content(path)
        return path
    data = content if isinstance(content, bytes | str) else json.dumps(content)
    path.write_bytes(data if isinstance(data, bytes) else data.encode("utf-8", "surrogatepass"))
    return path


def table(kind: str, rows: dict[str, tuple[str, Any]], feed: Callable[[Path, Any], str]) -> Iterator[Case]:
    """Cases that differ in what they feed alone: name → (outcome, what is fed)."""
    for name, (outcome, given) in rows.items():
        yield Case(kind, name, outcome, lambda folder, given=given: feed(folder, given))  # type: ignore[misc]


GOOD = "good.png"
CATEGORIES = [{"id": 1, "name": "person"}, {"id": 2, "name": "horse"}]


def good_image(folder: Path) -> None:
    """Writes the one image of a set that nothing is wrong with."""
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (64, 48), (90, 90, 200)).save(folder / GOOD)


def instances(images: list[Any] | None = None, annotations: list[Any] | None = None, **more: Any) -> dict[str, Any]:
    """A set with one good image and one good box, and with what a case adds."""
    first = {"id": 1, "file_name": GOOD, "width": 64, "height": 48}
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [4, 4, 20, 30], "iscrowd": 0}
    return {
        "images": [*(images or []), first], "annotations": [box, *(annotations or [])],
        "categories": CATEGORIES, **more,
    }  # fmt: skip


def ingested(folder: Path, content: Any, root: Path | str | None = None, **source: Any) -> str:
    """Reads a set as a run does, in COCO's format by default, from `content` or else what lies in set.json already.

    Tells how many images came out, and each reason with its value.
    """
    pictures = folder / "images" if root is None else root
    if isinstance(pictures, Path) and pictures.suffix != ".tar":
        good_image(pictures)
    annotations = folder / "set.json"
    if content is not None:
        written(annotations, content)
    given = DataSource(**{"name": "set", "format": "coco", "images": pictures, "annotations": annotations, **source})
    settings = IngestSettings(sources=(given,), indexes=folder / "indexes", partition_size=1000)
    stage, store = IngestStage(settings), LocalStore(folder / "store")
    kept, reasons = [], []
    for partition in stage.partitions("set", store):
        output = stage.run(Inputs(partition=partition.name, image_ids=partition.image_ids), folder, lambda *_: None)
        kept += output.table.to_pylist()
        reasons += [f"{reject.image_id} {reject.reason}: {reject.value}" for reject in output.rejected]
    boxes = sum(len(row["boxes"]) for row in kept)
    return f"kept {len(kept)} images, {boxes} boxes; quarantined {'; '.join(reasons) or 'nothing'}"
