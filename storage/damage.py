"""Damage: what a store holds that is not what its manifests say."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from storage.artifact import Artifact
from storage.digests import digest_file, digest_json
from storage.errors import Terminal
from storage.manifest import FutureManifest
from storage.runs import Run, runs_of
from storage.store import Store


@dataclass(frozen=True)
class Damage:
    """An artifact that can't be trusted, in what way, and which steps of runs hold it (`run step partition`)."""

    stage: str
    key: str
    what: str
    needed_by: tuple[str, ...] = ()


def find_damage(store: Store, runs: Iterable[Run] | None = None) -> Iterator[Damage | None]:
    """Read every artifact of `runs` (or of the whole store) again; for each its damage, or None when it is whole.

    What a run names and the store has lost counts as damage too. Raises `FutureManifest` for what a newer version wrote.
    """
    holders = _holders(runs_of(store) if runs is None else runs)
    places = set(holders)
    if runs is None:
        places |= {(stage, artifact.key) for stage in store.stages() for artifact in store.artifacts(stage)}
    for stage, key in sorted(places):
        artifact = store.find(stage, key)
        what = "not in the store" if artifact is None else _examine(artifact, stage)
        yield None if what is None else Damage(stage, key, what, tuple(holders.get((stage, key), ())))


def _holders(runs: Iterable[Run]) -> dict[tuple[str, str], list[str]]:
    """Stage and key → which steps of runs hold it."""
    found: dict[tuple[str, str], list[str]] = {}
    for run in runs:
        for step in run.steps():
            for partition, key in run.keys(step).items():
                found.setdefault((run.stage(step), key), []).append(f"{run.name} {step} {partition}")
    return found


def _examine(artifact: Artifact, stage: str) -> str | None:
    """What is wrong with an artifact, or None."""
    try:
        manifest = artifact.manifest
    except FutureManifest:
        raise
    except Terminal:
        return "damaged manifest"
    if (manifest.stage, manifest.key) != (stage, artifact.key) or digest_json(manifest.terms) != artifact.key:
        return "manifest of another key"
    for name, entry in manifest.files.items():
        path = artifact.file(name)
        if not path.is_file():
            return f"{name}: gone"
        if path.stat().st_size != entry.size:
            return f"{name}: {path.stat().st_size} bytes instead of {entry.size}"
        if digest_file(path) != entry.digest:
            return f"{name}: other bytes than its digest says"
    return None
