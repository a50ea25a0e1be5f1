"""The Ray engine beside the local one: `python -m benchmarks.ray_engine [--partitions 200] [--captions 500] [--json FILE]`.

Two Ray nodes with one core each stand against two local processes, on this machine. Measured are the time of a partition whose
stage does nothing, and stage `caption` of the demo's first scenes, with workers that are already open. The digests of both
engines must be equal.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import pyarrow as pa

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from ray_on_loopback import two_nodes  # noqa: E402

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
MakeEngine = Callable[[StageCall], AbstractContextManager[Engine]]


class NothingStage(Stage):
    """Writes one row."""

    name = "nothing"
    version = 1
    writes = "nothing"
    schema = SCHEMA

    def run(self, inputs: Inputs, work: Path, report: ReportProgress) -> Output:
        return Output(pa.table({"image_id": inputs.image_ids}, schema=SCHEMA))


def nothing_items(start: int, count: int) -> list[WorkItem]:
    terms = [KeyTerms("nothing", 1, {}, {"ids": [str(start + n)]}) for n in range(count)]
    return [WorkItem("nothing", f"set/{start + n:04d}", terms[n], {}, (start + n,)) for n in range(count)]


def measure_empty(make: MakeEngine, store: Path, count: int) -> dict[str, float]:
    """Milliseconds of a partition of the stage that does nothing, with two workers that are open."""
    with make(StageCall(NothingStage, Settings(), {}, {}, store)) as engine:
        start = timed(engine, nothing_items(0, 4))
        seconds = timed(engine, nothing_items(4, count))
    return {"start_s": round(start, 2), "ms_a_partition": round(1e3 * seconds / count, 2)}


def caption_plan(place: Path, images: int) -> tuple[StageCall, list[WorkItem]]:
    """Stage `caption` of the demo's first scenes in partitions of 50, with everything above it done."""
    sets = [f"data.root={place.parent}/scenes", f"store={place}", "data.partition_size=50", "run.until=caption"]
    sets += [f"scenes.train={images + 100}", "scenes.relations=2", "scenes.test=2"]
    context = RunContext(load_recipe(ROOT / "recipes/demo.toml", sets))
    prepare(context)
    planner, display = Planner(context), Lines(lambda line: None)
    *above, step = context.steps
    for each in above:
        run_step(planner, each, display, work)
    plan = planner.plan(step)
    return stage_call(planner, plan), list(plan.due)


def timed(engine: Engine, items: Sequence[WorkItem]) -> float:
    """Seconds until all items are committed."""
    began = time.monotonic()
    for future in [engine.submit(item) for item in items]:
        future.result()
    return time.monotonic() - began


def measure_captions(engines: dict[str, MakeEngine], folder: Path, images: int) -> dict[str, dict[str, float]]:
    """Seconds of stage `caption`: of the first hundred images with the start of the workers, and of the others.

    Both engines take turns, two partitions each, so that other work on the machine slows both. Raises AssertionError when
    their captions differ.
    """
    plans = {name: caption_plan(folder / name, images) for name in engines}
    found = {name: {"first_s": 0.0, "others_s": 0.0} for name in engines}
    with ExitStack() as stack:
        opened = {name: stack.enter_context(engines[name](call)) for name, (call, _) in plans.items()}
        for start in range(0, images // 50 + 2, 2):
            for name, engine in opened.items():
                found[name]["others_s" if start else "first_s"] += timed(engine, plans[name][1][start : start + 2])
    digests = []
    for name, (_, due) in plans.items():
        artifacts = LocalStore(folder / name).find_all("caption", [item.key for item in due])
        digests.append([artifacts[item.key].content for item in due])
    assert digests[0] == digests[1], "the engines' captions differ"
    return {name: {key: round(value, 2) for key, value in of.items()} for name, of in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--partitions", type=int, default=200)
    parser.add_argument("--captions", type=int, default=500, help="images to caption beyond the first hundred")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    os.chdir(ROOT)
    with tempfile.TemporaryDirectory() as folder, two_nodes() as cluster:
        engines: dict[str, MakeEngine] = {
            "local": lambda call: LocalEngine(call, 2),
            "ray": lambda call: RayEngine(call, address=cluster.address, least=2, most=2),
        }
        empty = {
            name: measure_empty(make, Path(folder) / f"empty-{name}", given.partitions)
            for name, make in engines.items()
        }
        captions = measure_captions(engines, Path(folder), given.captions)
    for name in engines:
        print(f"{name:6} {empty[name]} {captions[name]}")
    overhead = empty["ray"]["ms_a_partition"] - empty["local"]["ms_a_partition"]
    ratio = captions["ray"]["others_s"] / captions["local"]["others_s"]
    later = captions["ray"]["first_s"] - captions["local"]["first_s"]
    print(f"overhead of Ray: {overhead:.2f} ms a partition (goal: at most 50)")
    print(f"captions, Ray to local: {ratio:.3f} with open workers, which open {later:.1f} s later (goal: 1.15)")
    figures = {"empty": empty, "captions": captions, "overhead_ms": overhead, "ratio": ratio, "load": os.getloadavg()}
    figures["machine"] = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    if given.json is not None:
        given.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
