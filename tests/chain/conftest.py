"""The tiny chain, run once to its end, with which every test compares."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_chain import World


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, root: Path) -> World:
    """The tiny chain, run to its end without disturbance."""
    folder = tmp_path_factory.mktemp("chain")
    world = World(root, root / "tests" / "chain" / "tiny.toml", folder / "data", folder / "store")
    world.run()
    return world


@pytest.fixture
def fresh(finished: World, tmp_path: Path) -> World:
    """The same data and an empty store."""
    return World(finished.root, finished.recipe, finished.data, tmp_path / "store")


@pytest.fixture
def copied(finished: World, tmp_path: Path) -> World:
    """A copy of the finished store, to change."""
    shutil.copytree(finished.store, tmp_path / "store")
    return World(finished.root, finished.recipe, finished.data, tmp_path / "store")


@pytest.fixture
def computed() -> Callable[[list[dict[str, Any]]], dict[str, int]]:
    """Counts computed partitions from the events of a run: step → count."""

    def count(events: list[dict[str, Any]]) -> dict[str, int]:
        return {event["step"]: event["due"] for event in events if event.get("event") == "step" and event["due"]}

    return count
