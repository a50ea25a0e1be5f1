"""Damage: content of a store that does not match its manifests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from storage.digests import digest_json
from storage.errors import FatalError
from storage.manifest import MANIFEST, FutureManifest, parse_manifest
from storage.runs import Run, runs_of
from storage.store import Store


@dataclass(frozen=True)
class Damage:
    """An artifact that cannot be trusted, what is wrong with it, and which steps of runs need it (`run step partition`)."""

    stage: str
    key: str
    what: str
    needed_by: tuple[str, ...] = ()


def find_damage(store: Store, runs: Iterable[Run] | None = None) -> Iterator[Damage | None]:
    """Read every artifact of `runs` (or of the whole store) again. Yields the damage of each, or None when it is whole.

    An artifact that a run names and the store has lost is damaged too. Raises `FutureManifest` for one of a newer version.
    """
    holders = _holders(runs_of(store) if runs is None else runs)
    places = set(holders)
    if runs is None:
        places |= {(stage, held.key) for stage in store.stages() for held in store.entries(stage) if held.whole}
    for stage, key in sorted(places):
        what = _examine(store, stage, key)
        yield None if what is None else Damage(stage, key, what, tuple(holders.get((stage, key), ())))


def _holders(runs: Iterable[Run]) -> dict[tuple[str, str], list[str]]:
    """Stage and key → steps of runs that need it."""
    found: dict[tuple[str, str], list[str]] = {}
    for run in runs:
        for step in run.steps():
            for partition, key in run.keys(step).items():
                found.setdefault((run.stage(step), key), []).append(f"{run.name} {step} {partition}")
    return found


def _examine(store: Store, stage: str, key: str) -> str | None:
    """What is wrong with an artifact, or None."""
    try:
        place = f"{store.address}/artifacts/{stage}/{key}/{MANIFEST}"
        manifest = parse_manifest(store.manifest_bytes(stage, key), place)
    except FileNotFoundError:
        return "not in the store"
    except FutureManifest:
        raise
    except FatalError:
        return "damaged manifest"
    if (manifest.stage, manifest.key) != (stage, key) or digest_json(manifest.terms) != key:
        return "manifest of another key"
    if manifest.is_edited:
        return "edited manifest"
    for name, entry in manifest.files.items():
        found = store.measure(stage, key, name, entry.digest)
        if found is None:
            return f"{name}: gone"
        if found[0] != entry.size:
            return f"{name}: {found[0]} bytes instead of {entry.size}"
        if found[1] != entry.digest:
            return f"{name}: bytes do not match the digest"
    return None
