"""The records of a run as they lie at a URL. Anyone may have written them, so all are checked before any is used."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from storage.errors import FatalError
from storage.json_files import parse_json
from storage.run_files import RecordFile, StepFile, StepKeys, is_record_number, parse_document

_STEP = re.compile(r"steps/[^/]+\.json")
_DOCUMENT = re.compile(r"[a-z]+\.json")
_RECORD = re.compile(r"records/[A-Za-z0-9][A-Za-z0-9.-]*\.json")
"""Paths within a run's folder. A listing may hold others, which could lead out of the store."""
_REMEDY = "push the run again"


def history_of(records: Mapping[str, bytes], url: str) -> dict[str, bytes]:
    """The records of a run's executions, oldest first, by path within its folder. Other names are left out.

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
