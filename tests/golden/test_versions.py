"""The rows of a stage may change only with its version; otherwise the store would take old artifacts for new ones.

This covers ingest, caption, parse, tag and shard, but not trainings and the evaluation, whose floats depend on the
machine. `RLIP_RECORD=1 python -m pytest tests/golden` records the new rows of stages whose version was raised. For a
stage that only reads other rows than before, delete the recorded file first.
"""

from __future__ import annotations

import json
import math
import os
from typing import Any

import pytest
from golden.stage_cases import HERE, recorded, rows_of, settle, stages

STAGES = ("ingest", "caption", "parse", "tag", "shard")
TOLERANCE = 1e-3
"""Relative tolerance of floats: between processors, log-probabilities and scores differ by less."""


@pytest.mark.parametrize("name", STAGES)
def test_rows_change_only_with_the_version(name, tmp_path):
    stage = stages()[name]
    rows = settle(rows_of(stage, tmp_path), name)
    path = HERE / "rows" / f"{name}.json"
    before = recorded(name) if path.is_file() else {"version": 0, "rows": []}
    if stage.version > before["version"] and os.environ.get("RLIP_RECORD"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"version": stage.version, "rows": rows}, indent=1, ensure_ascii=False) + "\n")
        return
    difference = _difference(before["rows"], rows, "rows")
    assert difference is None, (
        f"{name} gives other rows than those recorded with version {before['version']} ({difference}): raise "
        f"{type(stage).__name__}.version{'' if stage.version == before['version'] else ' (done)'} and re-record with "
        "RLIP_RECORD=1 python -m pytest tests/golden"
    )
    assert stage.version == before["version"], "re-record with RLIP_RECORD=1 python -m pytest tests/golden"


def _difference(old: Any, new: Any, place: str) -> str | None:
    """The first place where values differ, or None."""
    if isinstance(old, dict) and isinstance(new, dict):
        pairs = [(f"{place}.{key}", old.get(key), new.get(key)) for key in [*old, *(k for k in new if k not in old)]]
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = [(f"{place}[{i}]", a, b) for i, (a, b) in enumerate(zip(old, new, strict=True))]
    elif isinstance(old, list) and isinstance(new, list):
        return f"{place}: {len(old)} → {len(new)}"
    elif isinstance(old, float) or isinstance(new, float):
        numbers = isinstance(old, float | int) and isinstance(new, float | int)
        return None if numbers and math.isclose(old, new, rel_tol=TOLERANCE) else f"{place}: {old} → {new}"
    else:
        return None if old == new else f"{place}: {old!r} → {new!r}"
    return next((found for name, a, b in pairs if (found := _difference(a, b, name)) is not None), None)
