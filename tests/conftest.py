"""Fixtures that every test folder shares."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# A shell that runs the tests in its background lets them, and all that they start, ignore Ctrl-C, which some are about.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and reference recordings; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("RLIP_SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no folder {folder} (set RLIP_SHARED)")
    return folder


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's root."""
    return ROOT
