"""Which images of a dataset a recipe takes: all, a seeded share of them, or those on a list."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.data.datasets.annotations import as_id, shown
from pipeline.data.datasets.record_index import RecordIndex
from pipeline.data.datasets.source import DataSource
from pipeline.data.exclusions import IDS, id_of_name, list_entries, listed_value
from storage.digests import digest_json
from storage.errors import FatalError

SHOWN = 3
"""Number of unknown images that an error names."""


@dataclass(frozen=True)
class Sample:
    """The images that are taken, in the order of the annotation file."""

    image_ids: tuple[int, ...]
    name: str
    """A short digest of how they were chosen; "" for a whole dataset, which keeps the name of its stored partitions."""

    @classmethod
    def of(cls, source: DataSource, index: RecordIndex) -> Sample:
        """Chooses the images of a source.

        `share` takes those whose sha256 of seed and id is smallest, so that the choice depends on nothing else, smaller
        shares are part of larger ones, and new images change few others. Raises `FatalError` for a list that names no image,
        or one that the dataset lacks.
        """
        ids = tuple(index.ids.tolist())
        if source.only is not None:
            listed = _listed(source.only, source.name, index)
            chosen = tuple(image_id for image_id in ids if image_id in listed)
            return cls(chosen, digest_json(sorted(listed))[:12])
        if source.share is not None:
            count = max(1, round(source.share * len(ids)))
            taken = set(sorted(ids, key=lambda image_id: (_rank(source.seed, image_id), image_id))[:count])
            chosen = tuple(image_id for image_id in ids if image_id in taken)
            return cls(chosen, digest_json([source.share, source.seed])[:12])
        return cls(ids, "")


def _rank(seed: int, image_id: int) -> bytes:
    return hashlib.sha256(f"{seed} {image_id}".encode()).digest()


def _listed(path: Path, dataset: str, index: RecordIndex) -> frozenset[int]:
    """The images of a dataset that a file lists."""
    known = frozenset(index.ids.tolist())
    names: dict[str, int] = {}
    for image_id, name in index.names():
        place = PurePosixPath(name)
        for form in (name, place.name, place.stem):
            names.setdefault(form, image_id)
    found: set[int] = set()
    unknown: list[str] = []
    for where, entry in list_entries(path):
        if (listed := _image(listed_value(entry), known, names)) is None:
            unknown.append(f"{where}: {shown(entry)}")
        else:
            found.add(listed)
    if unknown:
        raise FatalError(
            f"{path}: {len(unknown)} of {len(unknown) + len(found)} entries are no image of dataset {dataset!r}, e.g. "
            f"{'; '.join(unknown[:SHOWN])}. Check that the list belongs to this dataset. Expected {IDS}"
        )
    if not found:
        raise FatalError(f"{path}: names no image of dataset {dataset!r}; expected {IDS}")
    return frozenset(found)


def _image(value: Any, known: frozenset[int], names: Mapping[str, int]) -> int | None:
    """The id of the image that an entry names by its file or its id; None for one that the dataset lacks.

    A text is a file name first: Open Images names its files by hex digits, which may look like a number.
    """
    forms = (value, PurePosixPath(value).name) if isinstance(value, str) else ()
    by_name = next((names[form] for form in forms if form in names), None)
    if by_name is not None:
        return by_name
    numbers = (as_id(value), id_of_name(value) if isinstance(value, str) else None)
    return next((number for number in numbers if number in known), None)
