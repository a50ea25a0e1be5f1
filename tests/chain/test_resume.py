"""A run that is killed at any stage and started again ends with the bytes of an undisturbed run. So does the commit of
each real stage at every crash point.

This takes more than a minute: it waits for the tiny chain, runs it again in pieces, and trains on two machines.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow.parquet as pq
import pytest
from faulty_disk import Died, FaultyDisk, NoSync, Stop
from tiny_chain import World
from warm_process import hold_at_checkpoint, wait_for

from pipeline.run.dag import Step, build_steps
from pipeline.run.recipe_files import load_recipe
from pipeline.runtime.execute import WorkItem, execute
from pipeline.runtime.settings import Settings
from pipeline.runtime.stage import Inputs, Output, Rejected, ReportProgress, Stage
from storage.artifact import Artifact
from storage.damage import find_damage
from storage.keys import KeyTerms
from storage.local_store import LocalStore
from storage.manifest import REJECTED_FILE
from storage.object_store_artifacts import ObjectStoreArtifacts
from storage.store import Store

STEPS = (
    "ingest", "fingerprint", "caption", "parse", "shard_tagger", "train_tagger", "tag", "shard:pseudo",
    "pretrain:pseudo", "evaluate:pseudo",
)  # fmt: skip
ONE_WORKER = ("run.workers=1",)
"""The undisturbed run has two workers: neither their number nor the crash history may change a byte."""

EVERY = bool(os.environ.get("RLIP_KILLS"))
"""Set by `make torture`: kill in each stage, visit each crash point with each fault, and run all stages on S3.
Otherwise a stage of each kind is killed, each stage gets one of the faults in turn, and only pretraining and evaluation
run on S3."""
TRAININGS = ("train_tagger", "pretrain:pseudo")
OF_EACH_KIND = ("ingest", "train_tagger", "tag", "pretrain:pseudo")


class Replayed(Stage):
    """Makes an artifact of a real stage again from its files."""

    def __init__(self, stage: type[Stage], artifact: Artifact) -> None:
        super().__init__(Settings())
        self.name, self.version, self.writes = stage.name, stage.version, stage.writes
        self.table, self.whole = pq.read_table(artifact.file(f"{stage.writes}.parquet")), stage.whole
        self.schema, self.artifact = self.table.schema, artifact

    def item(self, step: str) -> WorkItem:
        """The work item with the key of the artifact."""
        manifest = self.artifact.manifest
        return WorkItem(step, manifest.partition, KeyTerms(**manifest.terms))

    def run(self, inputs: Inputs, work: Path, report: ReportProgress) -> Output:
        """Copy the files of the artifact to where the stage writes them."""
        manifest = self.artifact.manifest
        beside = [name for name in manifest.files if name not in (f"{self.writes}.parquet", REJECTED_FILE)]
        for name in beside:
            shutil.copyfile(self.artifact.file(name), work / name)
        rejected = [Rejected(r["image_id"], r["reason"], r["value"]) for r in self.artifact.rejected().to_pylist()]
        counts = manifest.counts
        return Output(
            self.table, {name: work / name for name in beside}, rejected, counts.rows_in,
            counts.rows_out, manifest.facts,
        )  # fmt: skip


def replayed(steps: list[Step], artifacts: dict[str, dict[str, Artifact]]) -> dict[str, Replayed]:
    """Step → the replay of one of its artifacts."""
    return {step.name: Replayed(step.stage, next(iter(artifacts[step.name].values()))) for step in steps}


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


def test_killed_again_and_again_it_ends_with_the_same_bytes(finished, fresh):
    committed: dict[tuple[str, str], int] = {}
    for step in STEPS if EVERY else OF_EACH_KIND:
        for event in _kill_in(fresh, step):
            if event["event"] == "committed":
                place = (event["step"], event["partition"])
                committed[place] = committed.get(place, 0) + 1
    fresh.run(*ONE_WORKER)
    assert fresh.contents() == finished.contents()
    assert all(times == 1 for times in committed.values()), "what was committed is never recomputed"


def test_a_training_goes_on_from_its_checkpoint(finished, copied):
    for artifact in copied.artifacts()["pretrain:pseudo"].values():
        (artifact.folder / "manifest.json").unlink()
    _kill_in(copied, "pretrain:pseudo")
    events = copied.run()
    steps = [e["done"] for e in events if e.get("event") == "progress" and e["step"] == "pretrain:pseudo"]
    assert steps and min(steps) >= 4, "the steps before the checkpoint are not trained again"
    assert copied.contents() == finished.contents()


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
    steps = [e["done"] for e in events if e.get("event") == "progress" and e["step"] == "pretrain:pseudo"]
    assert steps and min(steps) >= 4, "the steps before the checkpoint are not trained again"
    assert world.contents() == finished.contents()
    assert remote.files.listing("scratch") == {}


STOPS: tuple[Stop, ...] = ("torn write", "power cut, bytes lost", "power cut, names lost", "stop")


def _commit(made: Replayed, step: str, store: Store) -> None:
    execute(made, made.item(step), store, lambda done, total, note="": None)


def _files(root: Path) -> dict[str, bytes]:
    """Every data file of every visible artifact."""
    store = LocalStore(root)
    seen = [artifact for stage in store.stages() for artifact in store.artifacts(stage)]
    return {f"{a.folder.name}/{name}": a.file(name).read_bytes() for a in seen for name in a.manifest.files}


@pytest.mark.timeout(1800)
def test_each_crash_point_of_each_real_stages_commit(finished, tmp_path):
    artifacts, steps = finished.artifacts(), build_steps(load_recipe(finished.recipe))
    assert {step.name for step in steps} == {*STEPS, "overlap:pseudo"}
    for number, (step, made) in enumerate(replayed(steps, artifacts).items()):
        undisturbed = tmp_path / f"{number} undisturbed"
        LocalStore(undisturbed)
        counted = FaultyDisk(undisturbed, 0, "stop")
        _commit(made, step, LocalStore(undisturbed, counted))
        whole = _files(undisturbed)
        theirs = {f"{made.artifact.key}/{n}": made.artifact.file(n).read_bytes() for n in made.artifact.manifest.files}
        assert whole == theirs, f"{step}: a replay gives the bytes that the stage made"
        for fault in STOPS if EVERY else STOPS[number % len(STOPS) :][:1]:
            for at in range(1, len(counted.done) + 1):
                root = tmp_path / f"{number} {fault} {at}"
                LocalStore(root)
                disk = FaultyDisk(root, at, fault)
                with pytest.raises(Died):
                    _commit(made, step, LocalStore(root, disk))
                disk.cut_power()
                assert [damage for damage in find_damage(LocalStore(root)) if damage is not None] == []
                assert _files(root) in ({}, whole)
                store = LocalStore(root, NoSync())
                store.sweep()
                _commit(made, step, store)
                assert _files(root) == whole, f"{step}: after {fault} at {at} ({counted.done[at - 1]})"
