"""Garbage: what no run refers to. Marked from the runs, spared for a grace period, removed by one rename each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from storage.manifest import MANIFEST
from storage.runs import runs_of
from storage.store import Store


@dataclass(frozen=True)
class Garbage:
    """A folder that nothing refers to: an artifact, a torn one, or the scratch folder of a training given up."""

    folder: Path
    what: str
    size: int
    """Bytes."""
    used: float
    """When it was made or last found by a run, as a Unix time."""


def find_garbage(store: Store, before: float) -> Iterator[Garbage]:
    """What no run refers to and no run has found since `before` (a Unix time).

    Raises `Terminal` when a run's file is damaged: what it refers to can't be known.
    """
    marked = marked_keys(store)
    for stage in store.stages():
        for folder in sorted((store.root / "artifacts" / stage).iterdir()):
            if folder.name not in marked and (used := last_used(folder)) < before:
                what = stage if (folder / MANIFEST).is_file() else f"torn {stage}"
                yield Garbage(folder, what, size_of(folder), used)
    for folder in store.idle_scratch():
        if (used := last_used(folder)) < before:
            yield Garbage(folder, "scratch", size_of(folder), used)


def marked_keys(store: Store) -> set[str]:
    """The keys that any run refers to."""
    return {key for run in runs_of(store) for step in run.steps() for key in run.keys(step).values()}


def last_used(folder: Path) -> float:
    """When an artifact was made or last found; of another folder, when anything in it last changed."""
    manifest = folder / MANIFEST
    if manifest.is_file():
        return manifest.stat().st_mtime
    return max(path.stat().st_mtime for path in (folder, *folder.rglob("*")))


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
