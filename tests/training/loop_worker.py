"""A stand-in for the trainer: a real process group that sums in a loop, with faults that the environment orders.

FAULT is JSON: {"rank": 1, "steps": [3], "what": "kill", "always": false}. A step's fault happens once unless `always`
is set. With "stranger" at step 0, the rank takes part as someone who does not know the secret of the meeting. With
"warn", rank 0 also reports a warning at its steps. With "late", a rank that fails leaves its peers before its process
ends, so that theirs end first. Steps take long enough for a test to disturb them, except where a training goes on from
a checkpoint. With STOP=all, the ranks stop only when every one of them was asked to.
"""

import json
import os
import signal
import time
from pathlib import Path

import torch
import torch.distributed as dist

from pipeline.training.config import SUMMARY, WARNING, Summary, TrainConfig, TrainingProgress
from pipeline.training.launch.failure import Failure
from pipeline.training.launch.meeting import join
from storage.errors import FatalError, RetryableError


def main(path: Path) -> int:
    config = TrainConfig.model_validate_json(path.read_bytes())
    try:
        run(path, config)
    except Exception as error:
        Failure.of(error, int(os.environ["RANK"])).write(config.work)
        print(f"error: {error}", flush=True)
        if "late" in json.loads(os.environ.get("FAULT", "{}")) and dist.is_initialized():
            dist.destroy_process_group()
            time.sleep(1)
        return 1
    return 0


def run(path: Path, config: TrainConfig) -> None:
    settings, work = config.settings, config.work
    asked = []
    signal.signal(signal.SIGTERM, lambda number, _frame: asked.append(number))
    with (work / "starts.txt").open("a") as starts:
        starts.write(f"{os.environ['RANK']}/{os.environ['WORLD_SIZE']}\n")
    if fault(work, int(os.environ["RANK"]), 0) == "stranger":
        path = work / "elsewhere" / path.name
        path.parent.mkdir()
        (path.parent / "secret").write_bytes(bytes(32))
    ranks = join(path, config)
    checkpoints = work / "checkpoints"
    checkpoints.mkdir(exist_ok=True)
    if ranks.count > 1:
        dist.barrier()
    first = max((int(path.name.removeprefix("step-")) for path in checkpoints.iterdir()), default=0)
    for step in range(first + 1, settings.steps + 1):
        warns = fault(work, ranks.rank, step) == "warn"
        sums = torch.tensor([1.0, float(bool(asked))])
        if ranks.count > 1:
            dist.all_reduce(sums)
        assert sums[0] == ranks.count
        time.sleep(0.05 if first == 0 else 0.0)
        stop = bool(sums[1] >= (ranks.count if os.environ.get("STOP") == "all" else 1))
        if ranks.rank == 0:
            with (work / "steps.txt").open("a") as steps:
                steps.write(f"{step} {ranks.count}\n")
            if warns:
                TrainingProgress(step=step, total=settings.steps, message=f"{WARNING}step {step}").write(work)
            TrainingProgress(step=step, total=settings.steps, message=f"world {ranks.count}").write(work)
            if step % settings.checkpoint_every == 0 or stop:
                (checkpoints / f"step-{step:08d}").mkdir(exist_ok=True)
        if stop:
            (work / f"stopped-{ranks.rank}").touch()
            return
    if ranks.count > 1:
        dist.barrier()
    if ranks.rank == 0:
        summary = Summary(
            steps=settings.steps, resumed_from=first, images=1, images_seen=1, images_per_second=1.0,
            processes=ranks.count, device="cpu",
        )  # fmt: skip
        (work / SUMMARY).write_text(summary.model_dump_json())


def fault(work: Path, rank: int, step: int) -> str | None:
    ordered = json.loads(os.environ.get("FAULT", "{}"))
    if not ordered or ordered["rank"] != rank or step not in ordered["steps"]:
        return None
    done = work / f"fault-{step}"
    if done.exists() and not ordered.get("always"):
        return None
    done.touch()
    if ordered["what"] in ("stranger", "warn"):
        return str(ordered["what"])
    if ordered["what"] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if ordered["what"] == "hang":
        time.sleep(1000)
    raise {"fatal": FatalError, "retry": RetryableError, "error": TypeError}[ordered["what"]]("the roof is on fire")
