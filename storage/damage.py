"""Damage: content of a store that does not match its manifests or seals."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from storage.errors import FatalError
from storage.json_files import LIMITS, Limits, read_json
from storage.manifest import MANIFEST, FutureManifest, parse_manifest
from storage.runs import RECORD_REMEDY, STEP_REMEDY, RecordFile, Run, StepFile, runs_of
from storage.store import Store


@dataclass(frozen=True)
class Damage:
    """An artifact that cannot be trusted, what is wrong with it, and which steps need it (`run step partition`)."""

    stage: str
    key: str
    what: str
    needed_by: tuple[str, ...] = ()


PARTITION_MAP_REMEDY = (
    "remove it and run again: images are then partitioned from scratch, and those that move to another partition are "
    "recomputed"
)
PARTITION_MAP_LIMITS = Limits(2**28, 2**24)
"""Eleven million images with ids of 19 digits fit."""
_RECORDS: dict[str, tuple[type, str, Limits]] = {
    "cuts/*.json": (object, PARTITION_MAP_REMEDY, PARTITION_MAP_LIMITS),
    "runs/*/*.json": (object, "run the recipe again, which rewrites it", LIMITS),
    "runs/*/records/*.json": (RecordFile, RECORD_REMEDY, LIMITS),
    "runs/*/steps/*.json": (StepFile, STEP_REMEDY, LIMITS),
}
"""Pattern of paths → what the files hold, what to do about a damaged one, and how large one may be."""


def find_damage(store: Store, runs: Iterable[Run] | None = None) -> Iterator[Damage | None]:
    """Read every artifact of `runs` (or of the whole store) again. Yields the damage of each, or None when it is whole.

    An artifact that a run names and the store lost is damaged too. Raises `FutureManifest` for one of a newer version.
    """
    holders = _holders(runs_of(store) if runs is None else runs)
    places = set(holders)
    if runs is None:
        places |= {(stage, held.key) for stage in store.stages() for held in store.entries(stage) if held.whole}
    for stage, key in sorted(places):
        what = _examine(store, stage, key)
        yield None if what is None else Damage(stage, key, what, tuple(holders.get((stage, key), ())))


@dataclass(frozen=True)
class DamagedFile:
    """A file or folder, other than an artifact, that cannot be trusted, and what is wrong with it.

    A cache can be removed at any time; for anything else, the message says what to do.
    """

    path: Path
    what: str
    is_cache: bool
    is_record: bool = False
    """Whether it lists what runs need; without it, artifacts can't be examined."""


def find_record_damage(store: Store) -> Iterator[DamagedFile]:
    """Read every record of the runs and every partition map. Yields the damaged ones."""
    for pattern, held in _RECORDS.items():
        for path in sorted(store.root.glob(pattern)):
            try:
                found: object = read_json(path, *held)
                if isinstance(found, StepFile):
                    found.require_valid(found.step)
            except FatalError as error:
                yield DamagedFile(path, str(error), is_cache=False, is_record=True)


def _holders(runs: Iterable[Run]) -> dict[tuple[str, str], list[str]]:
    """Stage and key → steps of runs that need it."""
    found: dict[tuple[str, str], list[str]] = {}
    for run in runs:
        for step in run.steps():
            stage = run.stage(step)
            for partition, key in run.keys(step).items():
                found.setdefault((stage, key), []).append(f"{run.name} {step} {partition}")
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
    fault = manifest.fault(stage, key)
    if fault is not None:
        return fault
    for name, entry in manifest.files.items():
        found = store.measure(stage, key, name, entry.digest)
        if found is None:
            return f"{name}: gone"
        if found[0] != entry.size:
            return f"{name}: {found[0]} bytes instead of {entry.size}"
        if found[1] != entry.digest:
            return f"{name}: bytes do not match the digest"
    return None
