"""A run that is killed at any stage ends, when started again, with the bytes of an undisturbed run."""

from __future__ import annotations

import json
import os
import signal
from typing import Any

from tiny_chain import World

STEPS = (
    "ingest", "caption", "parse", "train_tagger", "tag", "shard:pseudo", "pretrain:pseudo", "evaluate:pseudo",
)  # fmt: skip
ONE_WORKER = ("run.workers=1",)
"""The undisturbed run has two: neither their number nor the crash history may change a byte."""


def _kill_in(world: World, step: str) -> list[dict[str, Any]]:
    """Run until `step` is under way (a partition committed, a checkpoint written), then SIGKILL the run's process."""
    process = world.start(*ONE_WORKER)
    assert process.stdout is not None
    events = []
    for line in process.stdout:
        event = json.loads(line)
        events.append(event)
        if event.get("step") != step:
            continue
        committed = event["event"] == "committed"
        trained = event["event"] == "progress" and event["partition"] == "all" and event["done"] >= 5
        if committed or trained:
            os.kill(process.pid, signal.SIGKILL)
            break
    process.stdout.close()
    process.wait(timeout=60)
    return events


def test_killed_at_every_stage_it_ends_with_the_same_bytes(finished: World, fresh: World) -> None:
    committed: dict[tuple[str, str], int] = {}
    for step in STEPS:
        for event in _kill_in(fresh, step):
            if event["event"] == "committed":
                place = (event["step"], event["partition"])
                committed[place] = committed.get(place, 0) + 1
    fresh.run(*ONE_WORKER)
    assert fresh.contents() == finished.contents()
    assert all(times == 1 for times in committed.values()), "what was committed is never computed again"


def test_a_training_goes_on_from_its_checkpoint(finished: World, copied: World) -> None:
    for artifact in copied.artifacts()["pretrain:pseudo"].values():
        (artifact.folder / "manifest.json").unlink()
    _kill_in(copied, "pretrain:pseudo")
    events = copied.run()
    steps = [e["done"] for e in events if e.get("event") == "progress" and e["step"] == "pretrain:pseudo"]
    assert steps and min(steps) >= 4, "the steps before the checkpoint are not trained again"
    assert copied.contents() == finished.contents()
