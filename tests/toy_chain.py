"""A chain of two small stages, and what it leaves in a store, byte by byte: for tests that disturb it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.runtime.execute import WorkItem, execute
from pipeline.runtime.settings import Settings
from pipeline.runtime.stage import Inputs, Output, Rejected, ReportProgress, Stage
from storage.damage import find_damage
from storage.keys import KeyTerms
from storage.runs import Run
from storage.store import Store

SCHEMA = pa.schema([("image_id", pa.int64())])


class First(Stage):
    """A table, a file beside it, a row in quarantine."""

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
    """Twice what the first stage wrote; over the whole set, so it works in a scratch folder."""

    name = "second"
    version = 1
    reads = ("images",)
    writes = "doubles"
    schema = SCHEMA
    whole = True

    def run(self, inputs: Inputs, work: Path, report: ReportProgress) -> Output:
        ids = [2 * row["image_id"] for row in inputs.table("images").to_pylist()]
        return Output(pa.table({"image_id": ids}, schema=SCHEMA))


def run_chain(store: Store) -> None:
    """Two stages, each recorded once it is done."""
    run = Run(store, "small")
    first = first_item()
    run.record("first", "first", {"toys/0000": carry(First, first, store)})
    inputs = {"images": (store.folder("first", first.key),)}
    second = WorkItem("second", "all", KeyTerms("second", 1, {}, {"images": ["c"]}), inputs)
    run.record("second", "second", {"all": carry(Second, second, store)})


def first_item() -> WorkItem:
    """The one partition of the first stage."""
    return WorkItem("first", "toys/0000", KeyTerms("first", 1, {}, {}), {}, (1, 2, 3))


def carry(stage: type[Stage], item: WorkItem, store: Store) -> str:
    """Carry an item out; its key."""
    return execute(stage(Settings()), item, store, lambda done, total, note="": None).key


def bytes_of(store: Store) -> dict[str, Any]:
    """All data files and runs, byte by byte; of manifests the terms and files, since seconds differ."""
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
    """Whatever a reader can see is whole, and is what an undisturbed run would have made."""
    assert [damage for damage in find_damage(store) if damage is not None] == []
    assert bytes_of(store).items() <= whole.items()
