"""Usage: how many bytes stages and runs take, and how many removing a run would free."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from storage.local_store import size_of
from storage.runs import runs_of
from storage.store import Store


@dataclass(frozen=True)
class Share:
    """Artifacts and bytes of a stage or a run. `apart`: bytes that no run needs (of a stage) or no other run (of a run)."""

    name: str
    artifacts: int
    size: int
    apart: int


@dataclass(frozen=True)
class Usage:
    """Bytes of a store, by stage and by run; `pending`: bytes of what is being written."""

    stages: tuple[Share, ...]
    runs: tuple[Share, ...]
    pending: int

    @property
    def size(self) -> int:
        """Bytes of all artifacts."""
        return sum(stage.size for stage in self.stages)


def usage_of(store: Store) -> Usage:
    """Measure a store. Reads only the records of runs; a run needs what any of its records names."""
    sizes = {stage: {held.key: held.size for held in store.entries(stage) if held.whole} for stage in store.stages()}
    every = {key: size for found in sizes.values() for key, size in found.items()}
    needed = {
        run.name: {
            key
            for state in (run, *run.records())
            for step in state.steps()
            for key in state.keys(step).values()
            if key in every
        }
        for run in runs_of(store)
    }
    times = Counter(key for keys in needed.values() for key in keys)
    stages = tuple(_share(stage, found, lambda key: times[key] == 0) for stage, found in sizes.items())
    runs = tuple(
        _share(name, {key: every[key] for key in keys}, lambda key: times[key] == 1) for name, keys in needed.items()
    )
    return Usage(stages, runs, size_of(store.root / "pending"))


def _share(name: str, sizes: Mapping[str, int], is_apart: Callable[[str], bool]) -> Share:
    apart = sum(size for key, size in sizes.items() if is_apart(key))
    return Share(name, len(sizes), sum(sizes.values()), apart)
