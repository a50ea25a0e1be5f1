"""Disk usage and garbage collection: artifacts that no run refers to are removed after a grace period by one rename."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from storage.local_store import last_used, size_of
from storage.runs import Run, runs_of
from storage.store import Store, StoredEntry


@dataclass(frozen=True)
class Garbage:
    """Something that no run refers to: an artifact, its remains, or an abandoned training run's scratch folder."""

    place: StoredEntry | Path
    what: str
    size: int
    """Bytes."""

    @property
    def name(self) -> str:
        """Its path in the store."""
        return (
            f"pending/{self.place.name}"
            if isinstance(self.place, Path)
            else f"artifacts/{self.place.stage}/{self.place.key}"
        )

    def remove(self, store: Store, before: float) -> None:
        """Remove it, unless a run has found it since `before`, or works in it."""
        if isinstance(self.place, Path):
            # Looked at again: between the listing and now, a run may have found it.
            if self.place in store.idle_scratch() and last_used(self.place) < before:
                store.remove(self.place)
        elif store.used(self.place.stage, self.place.key) < before:
            store.discard(self.place.stage, self.place.key)


def find_garbage(store: Store, before: float, *, history: bool = True) -> Iterator[Garbage]:
    """What no run refers to or has found since `before` (a Unix time). Without `history` only the newest states count.

    Raises `FatalError` when a run's file is damaged, since what it refers to is then unknown.
    """
    marked = {key for run in runs_of(store) for key in _keys_of(run, history)}
    for stage in store.stages():
        for held in store.entries(stage):
            if held.key not in marked and held.used < before:
                yield Garbage(held, stage if held.whole else f"torn {stage}", held.size)
    for folder in store.idle_scratch():
        if last_used(folder) < before:
            yield Garbage(folder, "scratch", size_of(folder))


def _keys_of(run: Run, history: bool = True) -> set[str]:
    """The keys that a run refers to, now or (with `history`) in its records."""
    states = (run, *(run.records() if history else ()))
    return {key for state in states for step in state.steps() for key in state.keys(step).values()}


@dataclass(frozen=True)
class Share:
    """Artifacts and bytes of a stage or a run. `apart`: bytes no run needs (of a stage) or no other run (of a run)."""

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
    needed = {run.name: _keys_of(run) & every.keys() for run in runs_of(store)}
    times = Counter(key for keys in needed.values() for key in keys)
    stages = tuple(_share(stage, found, lambda key: times[key] == 0) for stage, found in sizes.items())
    runs = tuple(
        _share(name, {key: every[key] for key in keys}, lambda key: times[key] == 1) for name, keys in needed.items()
    )
    return Usage(stages, runs, size_of(store.root / "pending"))


def _share(name: str, sizes: Mapping[str, int], is_apart: Callable[[str], bool]) -> Share:
    apart = sum(size for key, size in sizes.items() if is_apart(key))
    return Share(name, len(sizes), sum(sizes.values()), apart)
