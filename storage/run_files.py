"""The files of a run's folder: keys of a step, the record of an execution, and documents.

Anyone may have written those at a URL, so all are checked before any is used.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from storage.errors import FatalError
from storage.json_files import parse_json, sealed_json
from storage.store import require_valid_address

STEP_REMEDY = "remove it and run the recipe again: the artifacts that it named are reused"
RECORD_REMEDY = "remove this record, and the later ones move up by one"
STEP_NAME = re.compile(r"[a-z][a-z0-9_]*(:[A-Za-z0-9._-]+)*")
_PARTITION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[0-9]+)?")
_LONGEST = 200
"""Characters of a name. That of a step is also the name of a file."""


class StepKeys(BaseModel):
    """The artifacts of a step: the stage that made them, and their keys by partition."""

    model_config = ConfigDict(frozen=True)

    stage: str = ""
    partitions: dict[str, str] = {}

    def require_valid(self, step: str) -> None:
        """Raise `FatalError` for names that could lead out of a store or control a terminal."""
        for kind, name, pattern in (
            ("step", step, STEP_NAME),
            *(("partition", p, _PARTITION) for p in self.partitions),
        ):
            if len(name) > _LONGEST or not pattern.fullmatch(name):
                raise FatalError(f"{name[:_LONGEST]!r}: not the name of a {kind}; the record that names it is damaged")
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


def document_bytes(value: Any) -> bytes:
    """A document as it is written."""
    return sealed_json(value if isinstance(value, dict) and value else {"value": value}, default=str)


def is_record_number(text: str, records: int) -> bool:
    """Whether a text numbers one of that many records, from 1 on."""
    return text.isdecimal() and len(text) < 10 and 1 <= int(text) <= records


def parse_document(data: bytes, name: str, remedy: str = "") -> Any:
    """The value of a document. Raises `FatalError` as `parse_json` does."""
    value = parse_json(data, object, name, remedy)
    if isinstance(value, dict):
        value = {name: each for name, each in value.items() if name != "seal"}
        return value["value"] if value.keys() == {"value"} else value
    return value


_STEP = re.compile(r"steps/[^/]+\.json")
_DOCUMENT = re.compile(r"[a-z]+\.json")
_RECORD = re.compile(r"records/[A-Za-z0-9][A-Za-z0-9.-]*\.json")
"""Paths within a run's folder. A listing may hold others, which could lead out of the store."""
_REMEDY = "push the run again"


def history_of(records: Mapping[str, bytes], url: str) -> dict[str, bytes]:
    """The records of a run's executions, oldest first, by path within its folder. Files of other names are ignored.

    Raises `FatalError` that names one which is damaged or names what is no step, partition or key.
    """
    found = {path: data for path, data in sorted(records.items()) if _RECORD.fullmatch(path)}
    for path, data in found.items():
        _record(data, f"{url}: {path}")
    return found


def steps_of(records: Mapping[str, bytes], url: str, number: str = "") -> dict[str, StepKeys]:
    """Step → its stage and keys: the newest, or those of record `number`. Raises as `history_of` does, or for an unknown one."""
    if number:
        return dict(_numbered(records, url, number).steps)
    found: dict[str, StepKeys] = {}
    for path, data in records.items():
        if _STEP.fullmatch(path):
            entry = parse_json(data, StepFile, f"{url}: {path}", _REMEDY)
            entry.require_valid(entry.step)
            found[entry.step] = entry
    return found


def documents_of(records: Mapping[str, bytes], url: str, number: str = "") -> dict[str, Any]:
    """Name → JSON document of a run, such as its recipe, or of its record `number`. Raises as `steps_of` does."""
    if number:
        facts = _numbered(records, url, number).facts
        return {name: facts[name] for name in ("recipe", "outcome") if name in facts}
    return {
        path.removesuffix(".json"): parse_document(data, f"{url}: {path}", _REMEDY)
        for path, data in records.items()
        if _DOCUMENT.fullmatch(path)
    }


def _numbered(records: Mapping[str, bytes], url: str, number: str) -> RecordFile:
    history = list(history_of(records, url).items())
    if not is_record_number(number, len(history)):
        raise FatalError(f"{url}: the run has {len(history)} records, not a record {number!r}")
    path, data = history[int(number) - 1]
    return _record(data, f"{url}: {path}")


def _record(data: bytes, name: str) -> RecordFile:
    found = parse_json(data, RecordFile, name, _REMEDY)
    for step, keys in found.steps.items():
        keys.require_valid(step)
    return found
