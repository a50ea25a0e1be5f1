"""A chain of two small stages, for tests that disturb it and compare the store byte by byte."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.runtime.execute import WorkItem, execute
from pipeline.runtime.settings import Settings
from pipeline.runtime.stage import Inputs, Output, Rejected, ReportProgress, Stage
from storage.atomic import write_atomic
from storage.damage import find_damage
from storage.keys import KeyTerms
from storage.runs import Run
from storage.store import Store

SCHEMA = pa.schema([("image_id", pa.int64())])


class First(Stage):
    """Writes a table, a second file and a quarantined row."""

    name = "first"
    version = 1
    writes = "images"
    schema = SCHEMA

    def run(self, inputs: Inputs, work: Path, report: ReportProgress) -> Output:
        (work / "beside.bin").write_bytes(b"beside" * 100)
        (work / "rough.tmp").write_bytes(b"left behind")
        table = pa.table({"image_id": inputs.image_ids}, schema=SCHEMA)
        return Output(table, {"beside.bin": work / "beside.bin"}, [Rejected(9, "unloved")])


class Second(Stage):
    """Doubles what the first stage wrote. A whole-set stage, so it works in a scratch folder."""

    name = "second"
    version = 1
    reads = ("images",)
    writes = "doubles"
    schema = SCHEMA
    whole = True

    def run(self, inputs: Inputs, work: Path, report: ReportProgress) -> Output:
        ids = [2 * row["image_id"] for row in inputs.table("images").to_pylist()]
        return Output(pa.table({"image_id": ids}, schema=SCHEMA))


class Counting(Second):
    """Counts to five in a file. Goes on from its last number, as a training does from its checkpoint."""

    name = "counting"
    resumes_from = "resume.json"

    def run(self, inputs: Inputs, work: Path, report: ReportProgress) -> Output:
        state = work / "state"
        for number in range(int(state.read_text()) + 1 if state.is_file() else 1, 6):
            write_atomic(state, str(number).encode())
            write_atomic(work / "resume.json", json.dumps({"files": ["state"], "number": number}).encode())
            self.counted(number)
        return Output(pa.table({"image_id": [int(state.read_text())]}, schema=SCHEMA))

    def counted(self, number: int) -> None:
        """Called after each number."""


def run_chain(store: Store) -> None:
    """Run both stages and record each when it is done."""
    run = Run(store, "small")
    first = first_item()
    run.record("first", "first", {"toys/0000": carry(First, first, store)})
    inputs = {"images": (store.folder("first", first.key),)}
    second = WorkItem("second", "all", KeyTerms("second", 1, {}, {"images": ["c"]}), inputs)
    run.record("second", "second", {"all": carry(Second, second, store)})


def first_item() -> WorkItem:
    """The only partition of the first stage."""
    return WorkItem("first", "toys/0000", KeyTerms("first", 1, {}, {}), {}, (1, 2, 3))


def carry(stage: type[Stage], item: WorkItem, store: Store) -> str:
    """Execute an item and return its key."""
    return execute(stage(Settings()), item, store, lambda done, total, note="": None).key


def bytes_of(store: Store) -> dict[str, Any]:
    """The bytes of all data files and run records; of manifests only terms, upstream and files, as seconds differ."""
    store.refresh()
    found: dict[str, Any] = {}
    for stage in store.stages():
        for artifact in store.artifacts(stage):
            manifest = artifact.manifest
            found[f"{stage}/{artifact.key}"] = (manifest.terms, manifest.upstream, manifest.files)
            for name in manifest.files:
                found[f"{stage}/{artifact.key}/{name}"] = artifact.file(name).read_bytes()
    for path in (store.root / "runs").rglob("*"):
        if path.is_file():
            found[path.name] = path.read_bytes()
    return found


def assert_valid_prefix(store: Store, whole: dict[str, Any]) -> None:
    """Assert that all visible artifacts are complete and are what an undisturbed run would have made."""
    assert [damage for damage in find_damage(store) if damage is not None] == []
    assert bytes_of(store).items() <= whole.items()
