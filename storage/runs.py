"""Runs: the named results that people use. A run maps partition → key for each step, and so points to artifacts.

A run has a history: each execution appends a record that is never rewritten, and `name@2` is the state after the
second. The files of a run may come from elsewhere, so they are checked before they are used.
"""

from __future__ import annotations

import re
import uuid
import warnings
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict

from storage.artifact import Artifact
from storage.errors import FatalError, did_you_mean
from storage.json_files import parse_json, read_json, read_within_limit, sealed_json
from storage.store import Store, require_valid_address

STEP_REMEDY = "remove it and run the recipe again: the artifacts that it named are reused"
RECORD_REMEDY = "remove this record, and the later ones move up by one"
_STEP_NAME = re.compile(r"[a-z][a-z0-9_]*(:[A-Za-z0-9._-]+)*")
_PARTITION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[0-9]+)?")
_MAX_NAME = 200
"""Maximum number of characters of a name. A step's name is also a file name."""


class StepKeys(BaseModel):
    """The artifacts of a step: the stage that made them, and their keys by partition."""

    model_config = ConfigDict(frozen=True)

    stage: str = ""
    partitions: dict[str, str] = {}

    def require_valid(self, step: str) -> None:
        """Raise `FatalError` for names that could lead out of a store or control a terminal."""
        for kind, name, pattern in (
            ("step", step, _STEP_NAME),
            *(("partition", p, _PARTITION) for p in self.partitions),
        ):
            if len(name) > _MAX_NAME or not pattern.fullmatch(name):
                raise FatalError(f"{name[:_MAX_NAME]!r}: not the name of a {kind}; the record that names it is damaged")
        for key in self.partitions.values():
            require_valid_address(self.stage, key)


class StepFile(StepKeys):
    """The newest artifacts of a step, `steps/<step>.json`."""

    step: str
    stage: str
    partitions: dict[str, str]


class RecordFile(BaseModel):
    """The record of an execution, `records/<time>.json`: the steps as they were then, and facts for people."""

    model_config = ConfigDict(frozen=True, extra="allow")

    steps: dict[str, StepKeys]

    @property
    def facts(self) -> Mapping[str, Any]:
        """Time, status, host, recipe and outcome of the execution."""
        return {name: value for name, value in (self.model_extra or {}).items() if name != "seal"}


def _is_record_number(text: str, records: int) -> bool:
    """Whether a text is the number of a record, from 1 to `records`."""
    return text.isdecimal() and len(text) < 10 and 1 <= int(text) <= records


def parse_document(data: bytes, name: str, remedy: str = "") -> Any:
    """The value of a document. Raises `FatalError` as `parse_json` does."""
    value = parse_json(data, object, name, remedy)
    if isinstance(value, dict):
        value = {name: each for name, each in value.items() if name != "seal"}
        return value["value"] if value.keys() == {"value"} else value
    return value


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
STARTED = "started"
"""Document of a run that holds the recipe of the execution that began last."""


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
        self.require_current()
        entry = {"step": step, "stage": stage, "partitions": keys}
        self.store.put(self._file(step), sealed_json(entry))

    def note(self, name: str, value: Any) -> None:
        """Store a JSON document with the run, e.g. its recipe or the table shown at its end."""
        self.require_current()
        # Only an object with a field has room for a seal.
        document = value if isinstance(value, dict) and value else {"value": value}
        self.store.put(self.folder / f"{name}.json", sealed_json(document, default=str))

    def read_document(self, name: str) -> dict[str, Any]:
        """The JSON object stored under that name, or an empty one if it is missing or damaged."""
        found = self._read(name)
        return found if isinstance(found, dict) else {}

    @property
    def recipe(self) -> dict[str, Any]:
        """The recipe of the last execution that completed or, if none has, of the last one that began."""
        return self.read_document("recipe") or self.read_document(STARTED)

    def append(self, status: str, **facts: Any) -> None:
        """Append the state of the run to its history, as a record that is never rewritten. `facts` are JSON values."""
        self.require_current()
        self._append(datetime.now(UTC), status, facts)

    def adopt(self) -> None:
        """Make the state of a run without a history its first record, before anything is added to it."""
        self.require_current()
        if self.records() or not self.steps():
            return
        written = max(path.stat().st_mtime for path in (self.folder / "steps").glob("*.json"))
        facts = {"recipe": self.read_document("recipe"), "outcome": self._read("outcome") or []}
        self._append(datetime.fromtimestamp(written, UTC), "earlier", facts)

    def records(self) -> list[RunRecord]:
        """The history, oldest first; a record's number is its place. Raises `FatalError` when a record is damaged."""
        paths = sorted((self.folder / "records").glob("*.json"))
        return [RunRecord(self, number, path) for number, path in enumerate(paths, start=1)]

    def artifacts(self, step: str) -> dict[str, Artifact]:
        """Partition → artifact of a step, for recorded artifacts that still exist. Warns of those that don't."""
        entry = self._entry(step)
        found = self.store.find_all(entry.stage, entry.partitions.values()) if entry.partitions else {}
        if lost := len(set(entry.partitions.values()) - found.keys()):
            what = f"run {self.name}: the store lacks {lost} of {len(entry.partitions)} artifacts of {step}"
            warnings.warn(f"{what}; run the recipe again, or pull the run", stacklevel=2)
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

    def files(self) -> dict[str, bytes]:
        """The run's files as they are now, by path in the store; of a record, those of the history.

        Records come last, so that a copy in this order, if interrupted, claims no state that isn't there yet.
        """
        folder = self.folder / "records" if isinstance(self, RunRecord) else self.folder
        found = (path for path in folder.rglob("*.json") if path.is_file())
        paths = sorted(found, key=lambda path: (path.parent == self.folder / "records", path))
        return {path.relative_to(self.store.root).as_posix(): path.read_bytes() for path in paths}

    def remove(self) -> None:
        """Forget the run; its artifacts stay until `rlip store gc`."""
        self.require_current()
        self.store.remove_run(self.name)

    @property
    def exists(self) -> bool:
        """Whether anything was recorded under this name: a step, or, after a push of a record alone, its history."""
        return any(next((self.folder / kind).glob("*.json"), None) is not None for kind in ("steps", "records"))

    def require_current(self) -> None:
        """Raises `FatalError` for a record, since history is not rewritten. A run as it is now can be changed."""

    def _entry(self, step: str) -> StepKeys:
        """Stage and keys of a step; empty if it was not recorded. Raises `FatalError` if its file is damaged."""
        return self._load(self._file(step)) or StepKeys()

    def _append(self, time: datetime, status: str, facts: Mapping[str, Any]) -> None:
        steps = {step: {"stage": self.stage(step), "partitions": self.keys(step)} for step in self.steps()}
        content = {"time": time.isoformat(timespec="seconds"), "status": status, **facts, "steps": steps}
        # Records are in the order of their names, even if a clock was set back, or another machine's is slow.
        last = max((path.name.partition("-")[0] for path in (self.folder / "records").glob("*.json")), default="")
        stamp = max(f"{time:%Y%m%dT%H%M%S}.{time.microsecond:06d}", f"{last}0")
        name = f"{stamp}-{uuid.uuid4().hex[:8]}.json"
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
        if not _STEP_NAME.fullmatch(step):
            raise FatalError(f"run {self.name!r}: {step!r} is not the name of a step, e.g. shard:pseudo")
        return self.folder / "steps" / f"{step.replace(':', '.')}.json"


class RunRecord(Run):
    """The state of a run after one of its executions, from its history. Changing it raises `FatalError`."""

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

    def records(self) -> list[RunRecord]:
        """The history up to this record."""
        name, _, number = self.name.partition("@")
        return Run(self.store, name).records()[: int(number)]

    def _entry(self, step: str) -> StepKeys:
        return self._content.steps.get(step, StepKeys())

    def _read(self, name: str) -> Any:
        return self._content.facts.get(name)

    def require_current(self) -> None:
        """Always raises."""
        raise FatalError(f"{self.name} is a record of a past execution and can't be changed; name the run without @")


def runs_of(store: Store) -> list[Run]:
    """The runs of a store, by name."""
    names = sorted(folder.name for folder in (store.root / "runs").glob("*") if _NAME.fullmatch(folder.name))
    return [run for run in (Run(store, name) for name in names) if run.exists]


def find_run(store: Store, name: str) -> Run:
    """The run of that name or, for `name@2`, its second record. Otherwise raises `FatalError` listing what exists."""
    name, at, number = name.partition("@")
    run = Run(store, name)
    if not run.exists:
        names = [other.name for other in runs_of(store)]
        raise FatalError(
            f"no run {name!r} in {store.address}{did_you_mean(name, names)}; runs there: "
            f"{', '.join(names) or 'none yet'}"
        )
    if not at:
        return run
    records = run.records()
    if not _is_record_number(number, len(records)):
        known = f"{name}@1 to {name}@{len(records)}" if records else "none yet"
        raise FatalError(f"run {name!r} has no record {number!r}; records: {known} (`rlip show {name} --history`)")
    return records[int(number) - 1]


_STEP = re.compile(r"steps/[^/]+\.json")
_DOCUMENT = re.compile(r"[a-z]+\.json")
_RECORD = re.compile(r"records/[A-Za-z0-9][A-Za-z0-9.-]*\.json")
"""Paths within a run's folder at a URL. A listing may hold others, which could lead out of the store."""
_REMEDY = "push the run again"


class FetchedRun(NamedTuple):
    """The records of a run at a URL, checked."""

    steps: dict[str, StepKeys]
    """Step → its stage and keys: the newest, or those of the record that was asked for."""
    documents: dict[str, Any]
    """Name → JSON document, such as the recipe."""
    history: dict[str, bytes]
    """The records of executions, oldest first, by path within the run's folder, up to the one that was asked for."""


def parse_run(records: Mapping[str, bytes], url: str, number: str = "") -> FetchedRun:
    """Parses a run's files, by path within its folder, as it is now or with its record `number`. Ignores other files.

    Raises `FatalError` for an unknown record, and for a damaged file, or one with an invalid step, partition or key,
    which it names.
    """
    history = {path: data for path, data in sorted(records.items()) if _RECORD.fullmatch(path)}
    executions = [parse_json(data, RecordFile, f"{url}: {path}", _REMEDY) for path, data in history.items()]
    for execution in executions:
        for step, keys in execution.steps.items():
            keys.require_valid(step)
    if number:
        if not _is_record_number(number, len(executions)):
            raise FatalError(f"{url}: the run has {len(executions)} records, not a record {number!r}")
        chosen = executions[int(number) - 1]
        facts = {name: chosen.facts[name] for name in ("recipe", "outcome") if name in chosen.facts}
        until = dict(list(history.items())[: int(number)])  # later records would claim the run's newest state
        return FetchedRun(dict(chosen.steps), facts, until)
    steps: dict[str, StepKeys] = {}
    documents = {}
    for path, data in records.items():
        if _STEP.fullmatch(path):
            entry = parse_json(data, StepFile, f"{url}: {path}", _REMEDY)
            entry.require_valid(entry.step)
            steps[entry.step] = entry
        elif _DOCUMENT.fullmatch(path):
            documents[path.removesuffix(".json")] = parse_document(data, f"{url}: {path}", _REMEDY)
    return FetchedRun(steps, documents, history)
