"""A run that is killed at any stage and started again ends with the bytes of an undisturbed run.

This takes more than a minute: it waits for the tiny chain, runs it again in pieces, and trains on two machines.
`storage/test_crash_points.py` is about each crash point of a commit.
"""

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any
from uuid import uuid4

from tiny_chain import World
from warm_process import hold_at_checkpoint, wait_for

from storage.object_store_artifacts import ObjectStoreArtifacts

STEPS = (
    "ingest", "fingerprint", "caption", "parse", "shard_tagger", "train_tagger", "tag", "shard:pseudo",
    "pretrain:pseudo", "evaluate:pseudo",
)  # fmt: skip
ONE_WORKER = ("run.workers=1",)
"""The undisturbed run has two workers: neither their number nor the crash history may change a byte."""

EVERY = bool(os.environ.get("RLIP_KILLS"))
"""Set by `make torture`: kill in each stage, and run all stages on S3. Otherwise a stage of each kind is killed, and
only pretraining and evaluation run on S3."""
TRAININGS = ("train_tagger", "pretrain:pseudo")
OF_EACH_KIND = ("ingest", "train_tagger", "tag", "pretrain:pseudo")


def _kill_in(world: World, step: str) -> list[dict[str, Any]]:
    """Run until `step` is in progress (a partition committed, a checkpoint written), then SIGKILL the run's process."""
    process = world.start(*ONE_WORKER)
    events = []
    for line in process.stdout:
        event = json.loads(line)
        events.append(event)
        if event.get("step") != step:
            continue
        if step in TRAININGS:
            hold_at_checkpoint(Path(world.store), process)
        if step in TRAININGS or event["event"] == "committed":
            process.kill()
            break
    process.stdout.close()
    process.wait(timeout=60)
    return events


def _goes_on_from_a_checkpoint(events: list[dict[str, Any]]) -> bool:
    """Whether a run trained no step before the first checkpoint of pre-training again."""
    steps = [e["done"] for e in events if e.get("event") == "progress" and e["step"] == "pretrain:pseudo"]
    return bool(steps) and min(steps) >= 4


def test_killed_again_and_again_it_ends_with_the_same_bytes(finished, fresh):
    killed = STEPS if EVERY else OF_EACH_KIND
    runs = [*(_kill_in(fresh, step) for step in killed), fresh.run(*ONE_WORKER)]
    events = [event for run in runs for event in run if event.get("event") == "committed"]
    assert set(Counter((e["step"], e["partition"]) for e in events).values()) == {1}, "nothing is committed again"
    assert _goes_on_from_a_checkpoint(runs[killed.index("pretrain:pseudo") + 1])
    assert fresh.contents() == finished.contents()


def test_on_s3_another_machine_goes_on_from_the_checkpoint_of_a_killed_one(finished, s3, machine, tmp_path):
    world = World(finished.root, finished.recipe, finished.data, f"{s3}/{uuid4().hex}")
    machine("one")
    remote = ObjectStoreArtifacts(str(world.store))
    for step, artifacts in finished.artifacts().items():
        for artifact in artifacts.values() if not EVERY else ():
            if step not in ("pretrain:pseudo", "evaluate:pseudo"):
                remote.put(artifact)
    key = finished.artifacts()["pretrain:pseudo"]["all"].key
    process = world.start()
    hold_at_checkpoint(tmp_path / "one", process)
    wait_for(lambda: remote.files.read(f"scratch/{key}/record.json"), "no copy of a checkpoint arrived", seconds=250)
    process.kill()
    process.communicate(timeout=60)
    remote.files.remove([f"claims/{key}"])  # as if the lease of the killed run had expired
    machine("other")
    events = world.run()
    assert _goes_on_from_a_checkpoint(events)
    assert world.contents() == finished.contents()
    assert remote.files.listing("scratch") == {}
