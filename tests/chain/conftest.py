"""The tiny chain, run once to its end, with which every test compares."""

import fcntl
import shutil
from pathlib import Path

import pytest
from tiny_chain import World


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, root: Path, worker_id: str) -> World:
    """The tiny chain, run to its end undisturbed. Pytest's workers run it once and have a copy of the store each."""
    base = tmp_path_factory.getbasetemp()
    first = (base if worker_id == "master" else base.parent) / "tiny chain"
    first.mkdir(exist_ok=True)
    world = World(root, root / "tests" / "chain" / "tiny.toml", first / "data", first / "store")
    with (first / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (first / "complete").exists():
            world.run()
            (first / "complete").touch()
    own = tmp_path_factory.mktemp("chain") / "store"
    shutil.copytree(world.store, own)
    return World(world.root, world.recipe, world.data, own)


@pytest.fixture
def fresh(finished: World, tmp_path: Path) -> World:
    """The same data and an empty store."""
    return World(finished.root, finished.recipe, finished.data, tmp_path / "store")


@pytest.fixture
def copied(finished: World, tmp_path: Path) -> World:
    """A copy of the finished store, to change."""
    shutil.copytree(finished.store, tmp_path / "store")
    return World(finished.root, finished.recipe, finished.data, tmp_path / "store")
