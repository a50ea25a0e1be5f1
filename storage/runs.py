"""Runs: the named results that people use. A run maps partition → key for each step, and so points to artifacts.

A run has a history: each execution appends a record that is never rewritten, and `name@2` is the state after the second.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from storage.artifact import Artifact
from storage.errors import FatalError, did_you_mean
from storage.json_files import read_json, read_within_limit, sealed_json
from storage.run_files import (
    RECORD_REMEDY,
    STEP_NAME,
    STEP_REMEDY,
    RecordFile,
    StepFile,
    StepKeys,
    document_bytes,
    is_record_number,
    parse_document,
)
from storage.store import Store

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class Run:
    """The folder `runs/<name>/` of a store: one JSON file per step, plus the recipe that made them."""

    def __init__(self, store: Store, name: str) -> None:
        if not _NAME.fullmatch(name):
            raise FatalError(f"run name {name!r}: use letters, digits, '.', '_' and '-', at most 100, e.g. demo-2")
        self.name = name
        self.store = store
        self.folder = store.root / "runs" / name

    def record(self, step: str, stage: str, keys: dict[str, str]) -> None:
        """Record which artifact holds each partition of a step. `keys`: partition → key."""
        entry = {"step": step, "stage": stage, "partitions": keys}
        self.store.put(self._file(step), sealed_json(entry))

    def note(self, name: str, value: Any) -> None:
        """Store a JSON document with the run, e.g. its recipe or the table shown at its end."""
        self.store.put(self.folder / f"{name}.json", document_bytes(value))

    def read_document(self, name: str) -> dict[str, Any]:
        """The JSON object stored under that name, or an empty one where there is none that can be trusted."""
        found = self._read(name)
        return found if isinstance(found, dict) else {}

    def append(self, status: str, **facts: Any) -> None:
        """Append the state of the run to its history, as a record that is never rewritten. `facts` are JSON values."""
        self._append(datetime.now(UTC), status, facts)

    def adopt(self) -> None:
        """Make the state of a run without a history its first record, before anything is added to it."""
        if self.records() or not self.steps():
            return
        made = max(path.stat().st_mtime for path in (self.folder / "steps").glob("*.json"))
        facts = {"recipe": self.read_document("recipe"), "outcome": self._read("outcome") or []}
        self._append(datetime.fromtimestamp(made, UTC), "earlier", facts)

    def records(self) -> list[RunRecord]:
        """The history, oldest first; a record's number is its place. Raises `FatalError` when a record is damaged."""
        paths = sorted((self.folder / "records").glob("*.json"))
        return [RunRecord(self, number, path) for number, path in enumerate(paths, start=1)]

    def artifacts(self, step: str) -> dict[str, Artifact]:
        """Partition → artifact of a step, for those that were recorded and still exist."""
        entry = self._entry(step)
        found = self.store.find_all(entry.stage, entry.partitions.values()) if entry.partitions else {}
        return {part: found[key] for part, key in entry.partitions.items() if key in found}

    def keys(self, step: str) -> dict[str, str]:
        """Partition → key of a step, as recorded, whether or not the artifacts still exist."""
        return self._entry(step).partitions

    def stage(self, step: str) -> str:
        """The stage that a recorded step executes."""
        return self._entry(step).stage

    def steps(self) -> list[str]:
        """Names of the recorded steps, in no particular order."""
        paths = sorted((self.folder / "steps").glob("*.json"))
        return [entry.step for path in paths if (entry := self._load(path)) is not None]

    def remove(self) -> None:
        """Forget the run; its artifacts stay until `rlip store gc`."""
        self.store.remove_run(self.name)

    @property
    def exists(self) -> bool:
        """Whether anything was recorded under this name: a step, or, after a push of a record alone, its history."""
        return any(next((self.folder / kind).glob("*.json"), None) is not None for kind in ("steps", "records"))

    def _entry(self, step: str) -> StepKeys:
        """Stage and keys of a step; empty for one that was not recorded. Raises `FatalError` if its file is damaged."""
        return self._load(self._file(step)) or StepKeys()

    def _append(self, time: datetime, status: str, facts: Mapping[str, Any]) -> None:
        steps = {step: {"stage": self.stage(step), "partitions": self.keys(step)} for step in self.steps()}
        content = {"time": time.isoformat(timespec="seconds"), "status": status, **facts, "steps": steps}
        name = f"{time:%Y%m%dT%H%M%S}.{time.microsecond:06d}-{uuid.uuid4().hex[:8]}.json"
        self.store.put(self.folder / "records" / name, sealed_json(content, default=str))

    def _read(self, name: str) -> Any:
        path = self.folder / f"{name}.json"
        try:
            return parse_document(read_within_limit(path), str(path))
        except (OSError, FatalError):
            return None

    def _load(self, path: Path) -> StepFile | None:
        """Stage and keys recorded in a file; None where there is no file. Raises `FatalError` for a damaged one."""
        with suppress(FileNotFoundError):
            return read_json(path, StepFile, STEP_REMEDY)
        return None

    def _file(self, step: str) -> Path:
        if not STEP_NAME.fullmatch(step):
            raise FatalError(f"run {self.name!r}: {step!r} is not the name of a step, e.g. shard:pseudo")
        return self.folder / "steps" / f"{step.replace(':', '.')}.json"


class RunRecord(Run):
    """The state of a run after one of its executions, read from its history. It cannot be changed."""

    def __init__(self, run: Run, number: int, path: Path) -> None:
        """Raises `FatalError` if the record is damaged."""
        super().__init__(run.store, run.name)
        self.name = f"{run.name}@{number}"
        self._content = read_json(path, RecordFile, RECORD_REMEDY)

    @property
    def facts(self) -> Mapping[str, Any]:
        """Time, status, host, recipe and outcome of the execution."""
        return self._content.facts

    def steps(self) -> list[str]:
        """Names of the steps that the run had then."""
        return sorted(self._content.steps)

    def record(self, step: str, stage: str, keys: dict[str, str]) -> None:
        """Raises `FatalError`: history is not rewritten."""
        raise self._refusal()

    def note(self, name: str, value: Any) -> None:
        """Raises `FatalError`: history is not rewritten."""
        raise self._refusal()

    def append(self, status: str, **facts: Any) -> None:
        """Raises `FatalError`: only a run as it is now goes into its history."""
        raise self._refusal()

    def adopt(self) -> None:
        """Raises `FatalError`, as `append` does."""
        raise self._refusal()

    def remove(self) -> None:
        """Raises `FatalError`: a run is removed with its history."""
        raise self._refusal()

    @property
    def exists(self) -> bool:
        """True: it was read."""
        return True

    def _entry(self, step: str) -> StepKeys:
        return self._content.steps.get(step, StepKeys())

    def _read(self, name: str) -> Any:
        return self._content.facts.get(name)

    def _refusal(self) -> FatalError:
        return FatalError(f"{self.name} is a record of what was done and can't be changed; name the run without @")


def runs_of(store: Store) -> list[Run]:
    """The runs of a store, by name."""
    names = sorted(folder.name for folder in (store.root / "runs").glob("*") if _NAME.fullmatch(folder.name))
    return [run for run in (Run(store, name) for name in names) if run.exists]


def find_run(store: Store, name: str) -> Run:
    """The run of that name, or of `name@2` its second record. For an unknown one, raises `FatalError` that lists what exists."""
    name, at, number = name.partition("@")
    run = Run(store, name)
    if not run.exists:
        names = [other.name for other in runs_of(store)]
        raise FatalError(
            f"no run {name!r} in {store.address}{did_you_mean(name, names)}; runs there: {', '.join(names) or 'none yet'}"
        )
    if not at:
        return run
    records = run.records()
    if not is_record_number(number, len(records)):
        known = f"{name}@1 to {name}@{len(records)}" if records else "none yet"
        raise FatalError(f"run {name!r} has no record {number!r}; records: {known} (`rlip show {name} --history`)")
    return records[int(number) - 1]
