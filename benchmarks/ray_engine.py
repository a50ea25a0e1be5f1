"""The Ray engine beside the local one: `python -m benchmarks.ray_engine [--partitions 200] [--captions 500] [--json FILE]`.

Two Ray nodes with one core each stand against two local processes, on this machine. Measured are the time of a partition whose
stage does nothing, and stage `caption` of the demo's first scenes, with workers that are already open. The digests of both
engines must be equal.
"""

from __future__ import annotations

import os
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import pyarrow as pa

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from ray_on_loopback import two_nodes  # noqa: E402

from benchmarks.harness import Goal, Row, at_most, parser, run, wall_seconds  # noqa: E402
from pipeline.run.context import RunContext  # noqa: E402
from pipeline.run.planner import Planner  # noqa: E402
from pipeline.run.prepare import prepare  # noqa: E402
from pipeline.run.progress import Lines  # noqa: E402
from pipeline.run.recipe_files import load_recipe  # noqa: E402
from pipeline.run.runner import run_step, stage_call, work  # noqa: E402
from pipeline.runtime.engines.engine import Engine, StageCall  # noqa: E402
from pipeline.runtime.engines.local import LocalEngine  # noqa: E402
from pipeline.runtime.engines.ray import RayEngine  # noqa: E402
from pipeline.runtime.execute import WorkItem  # noqa: E402
from pipeline.runtime.settings import Settings  # noqa: E402
from pipeline.runtime.stage import Inputs, Output, ReportProgress, Stage  # noqa: E402
from storage.keys import KeyTerms  # noqa: E402
from storage.local_store import LocalStore  # noqa: E402

SCHEMA = pa.schema([("image_id", pa.int64())])
Engines = dict[str, Callable[[StageCall], AbstractContextManager[Engine]]]


class NothingStage(Stage):
    """Writes one row."""

    name = "nothing"
    version = 1
    writes = "nothing"
    schema = SCHEMA

    def run(self, inputs: Inputs, work: Path, report: ReportProgress) -> Output:
        return Output(pa.table({"image_id": inputs.image_ids}, schema=SCHEMA))


def nothing_items(start: int, count: int) -> list[WorkItem]:
    """Returns partitions of one image."""
    terms = {n: KeyTerms("nothing", 1, {}, {"ids": [str(n)]}) for n in range(start, start + count)}
    return [WorkItem("nothing", f"set/{n:04d}", of, {}, (n,)) for n, of in terms.items()]


def seconds(engine: Engine, items: Sequence[WorkItem]) -> float:
    """Returns the seconds until all items are committed."""
    return wall_seconds(lambda: [future.result() for future in [engine.submit(item) for item in items]])


def measure_empty(engines: Engines, folder: Path, count: int) -> Iterator[Row]:
    """Yields the time of a partition of the stage that does nothing, with two workers that are open."""
    found = {}
    for name, make in engines.items():
        with make(StageCall(NothingStage, Settings(), {}, {}, folder / f"empty-{name}")) as engine:
            seconds(engine, nothing_items(0, 4))
            found[name] = 1000 * seconds(engine, nothing_items(4, count)) / count
    yield Row("a partition of a stage that does nothing", "ms", found["ray"], found["local"])
    yield Row("more than with the local engine", "ms", found["ray"] - found["local"], goal=at_most(50))


def caption_plan(place: Path, images: int) -> tuple[StageCall, list[WorkItem]]:
    """Stage `caption` of the demo's first scenes in partitions of 50, with everything above it done."""
    sets = [f"data.root={place.parent}/scenes", f"store={place}", "data.partition_size=50", "run.until=caption"]
    sets += [f"scenes.train={images + 100}", "scenes.relations=2", "scenes.test=2"]
    context = RunContext(load_recipe(ROOT / "recipes/demo.toml", sets))
    planner, display = Planner(context), Lines(lambda line: None)
    prepare(context, display)
    *above, step = context.steps
    for each in above:
        run_step(planner, each, display, work)
    plan = planner.plan(step)
    return stage_call(planner, plan), list(plan.due)


def measure_captions(engines: Engines, folder: Path, images: int) -> Iterator[Row]:
    """Yields the time of stage `caption`: of the first hundred images with the start of the workers, and of the others.

    Both engines take turns, two partitions each, so that other work on the machine slows both. Raises AssertionError when
    their captions differ.
    """
    plans = {name: caption_plan(folder / name, images) for name in engines}
    first, others = dict.fromkeys(engines, 0.0), dict.fromkeys(engines, 0.0)
    with ExitStack() as stack:
        opened = {name: stack.enter_context(engines[name](call)) for name, (call, _) in plans.items()}
        for start in range(0, images // 50 + 2, 2):
            for name, engine in opened.items():
                (others if start else first)[name] += seconds(engine, plans[name][1][start : start + 2])
    digests = []
    for name, (_, due) in plans.items():
        artifacts = LocalStore(folder / name).find_all("caption", [item.key for item in due])
        digests.append([artifacts[item.key].content for item in due])
    assert digests[0] == digests[1], "the engines' captions differ"
    yield Row(
        f"captions of {images:,} scenes, workers open", "s", others["ray"], others["local"], Goal(1.15, most=True)
    )
    yield Row("captions of the first turn, with the start of the workers", "s", first["ray"], first["local"])


def measure(given: Namespace) -> Iterator[Row]:
    """Yields the times with Ray, beside those of the local engine."""
    os.environ["OMP_NUM_THREADS"] = "1"
    os.chdir(ROOT)
    with tempfile.TemporaryDirectory() as folder, two_nodes() as cluster:
        engines: Engines = {
            "local": lambda call: LocalEngine(call, 2),
            "ray": lambda call: RayEngine(call, address=cluster.address, least=2, most=2),
        }
        yield from measure_empty(engines, Path(folder), given.partitions)
        yield from measure_captions(engines, Path(folder), given.captions)


if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument("--partitions", type=int, default=200)
    options.add_argument("--captions", type=int, default=500, help="images to caption beyond the first hundred")
    run(options, measure)
