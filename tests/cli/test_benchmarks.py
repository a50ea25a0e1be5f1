"""The benchmarks, which run by hand, fit the code as it is."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in (ROOT / "benchmarks").rglob("[a-z]*.py")
)
PEERS = {"litdata", "spdl", "grain", "array_record", "lavis", "sng_parser"}


@pytest.mark.parametrize("module", MODULES)
def test_a_benchmark_can_be_loaded(module: str) -> None:
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] not in PEERS:
            raise
        pytest.skip(f"the peer {error.name} is not installed")
