"""Partitions a dataset once and stores the partition map. New images append partitions, so existing ones never change.

A recipe takes all images of a dataset, a seeded share of them, or those on a list (`selected_images`).
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import astuple
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, FailFast

from pipeline.data.datasets.annotations import as_id, shown
from pipeline.data.datasets.record import ImageRecord
from pipeline.data.datasets.record_index import RecordIndex, open_index
from pipeline.data.datasets.source import DataSource
from pipeline.data.exclusions import IDS, id_of_name, list_entries, listed_value, names_of
from pipeline.data.images.folders import open_folder
from pipeline.data.images.opening import LOOSEST_LIMITS, BadImage, ImageLimits, fingerprint
from pipeline.data.images.refs import ImageRef, UprightImage, state_of, uri_of
from pipeline.runtime.stage import Partition, Rejected
from pipeline.runtime.wording import UNREADABLE
from storage.atomic import write_atomic
from storage.damage import PARTITION_MAP_LIMITS, PARTITION_MAP_REMEDY
from storage.digests import digest_json
from storage.errors import FatalError
from storage.json_files import read_json, sealed_json
from storage.store import Store

PARTITION_MAPS = "cuts"
"""Folder of a store with the partition maps of its datasets. It has this name in stores of all versions."""
DIGESTS = "digests.json"
"""End of the name of the file that caches the digests of a dataset's partitions. It outlives the index next to it."""
_SETTLED_NS = 2_000_000_000
"""A file changed more recently than this before it was read may change again within the same timestamp tick."""


def partition_dataset(
    source: DataSource,
    size: int,
    indexes: Path | None,
    fingerprint_by: Literal["bytes", "stat"],
    store: Store,
    limits: ImageLimits = LOOSEST_LIMITS,
) -> Iterator[Partition]:
    """Yields the partitions of a dataset by its stored map, extended by new images, without those that are gone.

    The digest of a partition holds the content of each image file that the limits let ingest read. A part of a dataset
    (`share`, `only`) has separate partitions. Raises `FatalError` for a list that does not fit.
    """
    open_folder(source.image_root).refresh()
    index = open_index(source, indexes)
    index.require_one_image()
    # Datasets of other recipes may have the same name. The path of their annotations, or images, distinguishes them,
    # and the content where a path is new.
    listed = source.listed_in
    place = str(listed.absolute()) if isinstance(listed, Path) else listed
    selected, sample = selected_images(source, index)
    taken = frozenset(selected)
    part = f"-{sample}" if sample else ""
    # The cache outlives the index, which new annotations replace although most entries stay the same.
    cache, digests = index.folder.with_name(f"{source.name}-{DIGESTS}"), _Digests(digests={})
    with suppress(OSError, FatalError):
        digests = read_json(cache, _Digests)
    cached = dict(digests.digests)

    def partition_of(number: int, image_ids: Sequence[int]) -> Partition:
        present = tuple(image_id for image_id in index.present(image_ids) if image_id in taken)
        refs = list(index.refs(present))
        inner = [uri for ref in refs if "/" in (uri := uri_of(ref, source.images))]
        files = _stamp(refs, [fingerprint_by, limits.max_bytes, present, *inner])
        indexed = files and digest_json([files, index.folder.name])
        digest = digests.find(number, indexed)
        if digest is None:
            lost = index.lost if number == 0 and not sample else []
            stated = files and digest_json([files, source.split, index.digest(present), [*map(astuple, lost)]])
            digest = digests.find(number, stated)
            if digest is None:
                records = index.records(present)
                found = [(each, fingerprint_or_fault(each.path, fingerprint_by, limits)) for each in records]
                digest = partition_digest(source, found, lost)
                stated = None if UNREADABLE in {mark for _, mark in found} else stated  # the next plan tries again
            if stated and indexed:
                digests.digests[str(number)] = (stated, indexed, digest)
        return Partition(f"{source.name}/{number:04d}", present, digest)

    path = store.root / PARTITION_MAPS / f"{source.name}-{digest_json(place)[:12]}{part}.json"
    before = stored = load_partition_map(path)
    if not stored.partitions and path.parent.is_dir():
        names = partition_maps_of((other.name for other in path.parent.iterdir()), source.name, re.escape(part))
        stored = _map_of_moved([path.with_name(name) for name in names], taken, partition_of) or stored
    extended = extend_partitions(stored.partitions, selected, size)
    partitions = [partition_of(number, image_ids) for number, image_ids in enumerate(extended)]
    now = PartitionMap(partitions=extended, contents=[partition.digest for partition in partitions])
    if now != before:
        with suppress(FatalError):  # planning needs no store that can be written; a run requires one before it plans
            store.put(path, sealed_json(now.model_dump()))
    if digests.digests != cached:
        with suppress(OSError):  # a folder that is not writable: the next plan reads the files again
            write_atomic(cache, sealed_json(digests.model_dump()))
    yield from partitions


def extend_partitions(partitions: Sequence[Sequence[int]], image_ids: Sequence[int], size: int) -> list[list[int]]:
    """Appends the ids that `partitions` lack as new partitions of `size` images. Existing ones stay as they are."""
    known = {image_id for partition in partitions for image_id in partition}
    new = [image_id for image_id in image_ids if image_id not in known]
    return [list(p) for p in partitions] + [new[i : i + size] for i in range(0, len(new), size)]


class PartitionMap(BaseModel):
    """How a dataset is partitioned."""

    partitions: Annotated[list[Annotated[list[int], FailFast()]], FailFast()] = []
    """The image ids of each partition."""
    contents: list[str] = []
    """The digest of each partition when it was last planned. Stores of earlier versions lack it."""


def load_partition_map(path: Path) -> PartitionMap:
    """Loads a stored partition map; an empty one if there is none. Raises `FatalError` when the file is damaged."""
    with suppress(FileNotFoundError):
        return read_json(path, PartitionMap, PARTITION_MAP_REMEDY, PARTITION_MAP_LIMITS)
    return PartitionMap()


def partition_maps_of(names: Iterable[str], dataset: str, part: str = "(-.+)?") -> list[str]:
    """Chooses the partition maps of a dataset from names of files. `part` is a pattern."""
    return sorted(name for name in names if re.fullmatch(rf"{re.escape(dataset)}-[0-9a-f]{{12}}{part}\.json", name))


def _map_of_moved(
    others: Iterable[Path], taken: frozenset[int], partition_of: Callable[[int, Sequence[int]], Partition]
) -> PartitionMap | None:
    """Finds the map of a dataset that lay elsewhere when it was partitioned: it was moved, copied or pulled.

    It is recognised by the content of its first or last partition; a map of an earlier version, by ids that are all
    here.
    """
    maps = [each for each in map(load_partition_map, others) if each.partitions]
    for each in sorted(maps, key=lambda each: -len(each.partitions)):
        ends = {0, len(each.partitions) - 1}
        if not each.contents:
            known = all(taken.issuperset(image_ids) for image_ids in each.partitions)
        else:
            known = any(each.contents[at : at + 1] == [partition_of(at, each.partitions[at]).digest] for at in ends)
        if known:
            return each
    return None


class _Digests(BaseModel):
    """Cached digests by partition number, each after the stamps of what it follows from."""

    digests: dict[str, tuple[str, ...]]

    def find(self, number: int, stamp: str | None) -> str | None:
        """The cached digest of a partition; None if it has no such stamp."""
        *stamps, digest = self.digests.get(str(number), ("",))
        return digest if stamp in stamps else None


def damaged_digests(indexes: Path) -> Iterator[tuple[Path, str]]:
    """Read all cached digests in a folder of indexes. Yields each file and its fault, "" if none."""
    for path in sorted(indexes.glob(f"*-{DIGESTS}")):
        try:
            read_json(path, _Digests)
            yield path, ""
        except FatalError as error:
            yield path, str(error)


def forget_digest(index: RecordIndex, dataset: str, number: int) -> None:
    """Makes the next plan read the files of a partition, whose cached digest was wrong."""
    cache = index.folder.with_name(f"{dataset}-{DIGESTS}")
    with suppress(OSError, FatalError):  # without a cache, it reads them anyway
        kept = {other: found for other, found in read_json(cache, _Digests).digests.items() if other != str(number)}
        write_atomic(cache, sealed_json({"digests": kept}))


def partition_digest(source: DataSource, found: Iterable[tuple[ImageRecord, str]], lost: Iterable[Rejected]) -> str:
    """The digest of a partition: of what has no record, and of everything that determines the rows of its images:
    annotations, and their files' names and `fingerprint_or_fault`."""
    described = []
    for record, mark in found:
        boxes = [[str(value) for value in box] for box in record.boxes]
        rejects = [[reject.reason, reject.value] for reject in record.rejects]
        place = record.image_id, uri_of(record.path, source.images)
        read = ["upright"] if isinstance(record.path, UprightImage) else []
        described.append([*place, record.width, record.height, boxes, record.relations, rejects, mark, *read])
    return digest_json([source.name, source.split, described, [*map(astuple, lost)]])


def fingerprint_or_fault(place: ImageRef, by: Literal["bytes", "stat"], limits: ImageLimits) -> str:
    """The fingerprint of an image's file, or the reason why there is none."""
    try:
        return fingerprint(place, by, limits=limits)
    except BadImage as bad:
        return bad.reason


def _stamp(refs: Iterable[ImageRef], rest: Any) -> str | None:
    """Digest of `rest` and of size, times and inode of all files; None if one changed too recently to be sure."""
    began = time.time_ns()
    found = hashlib.sha256(json.dumps(rest).encode())
    newest = 0
    for ref in refs:
        try:
            state = state_of(ref)
        except OSError as error:
            found.update(f"{error.errno}\n".encode())
            continue
        newest = max(newest, state.newest_ns)
        found.update(f"{state.text}\n".encode())
    return found.hexdigest() if newest < began - _SETTLED_NS else None


def selected_images(source: DataSource, index: RecordIndex) -> tuple[tuple[int, ...], str]:
    """Chooses the images of a source that a recipe takes, in the order of the annotation file.

    Returns them with a short digest of how they were chosen, "" for a whole dataset, whose partition map has no such
    suffix. `share` takes those whose sha256 of seed and id is smallest, so that the choice depends on nothing else,
    smaller shares are part of larger ones, and new images change few others. Raises `FatalError` for a list that names
    no image, or one that the dataset lacks.
    """
    ids = tuple(index.ids.tolist())
    if source.only is not None:
        taken = _listed(source.only, source.name, index)
        name = digest_json(sorted(taken))
    elif source.share is not None:
        count = max(1, round(source.share * len(ids)))
        rank = {number: hashlib.sha256(f"{source.seed} {number}".encode()).digest() for number in ids}
        taken = frozenset(sorted(ids, key=lambda number: (rank[number], number))[:count])
        name = digest_json([source.share, source.seed])
    else:
        return ids, ""
    return tuple(image_id for image_id in ids if image_id in taken), name[:12]


def _listed(path: Path, dataset: str, index: RecordIndex) -> frozenset[int]:
    """The images of a dataset that a file lists."""
    known, numbered = frozenset(index.ids.tolist()), set[int]()
    uris: dict[str, Set[int]] = {}
    names: dict[str, set[int]] = defaultdict(set)
    for image_id, uri in index.names():
        uris[uri] = {image_id}
        if id_of_name(uri) == image_id:
            numbered.add(image_id)
        for name in names_of(uri):
            names[name].add(image_id)
    found: set[int] = set()
    unknown: list[str] = []
    for where, entry in list_entries(path):
        meant = _images(listed_value(entry), known, numbered, uris, names)
        if not meant and isinstance(entry, dict):
            meant = _images(entry.get("file_name"), known, numbered, uris, names)
        if len(meant) > 1:
            raise FatalError(
                f"{path}: {where} may be any of {len(meant)} images of dataset {dataset!r}: {shown(entry)}; give names "
                "with folder and extension, or ids as a JSON list of numbers"
            )
        if not meant:
            unknown.append(f"{where}: {shown(entry)}")
        found |= meant
    if unknown:
        raise FatalError(
            f"{path}: {len(unknown)} of {len(unknown) + len(found)} entries are not images of dataset {dataset!r}, "
            f"e.g. {'; '.join(unknown[:3])}. Check that the list belongs to this dataset. Expected {IDS}"
        )
    if not found:
        raise FatalError(f"{path}: names no image of dataset {dataset!r}; expected {IDS}")
    return frozenset(found)


def _images(
    value: Any, known: Set[int], numbered: Set[int], uris: Mapping[str, Set[int]], names: Mapping[str, Set[int]]
) -> Set[int]:
    """The images that an entry may mean: by its file name, or else its id. `numbered`: those named by their ids.

    A text may be both: Open Images names its files by hex digits, which may look like a number.
    """
    by_id = known & {as_id(value)}
    if not isinstance(value, str):
        return by_id
    if value in uris:
        return uris[value]
    by_name = next((names[form] for form in names_of(value)[:2] if form in names), set[int]())
    return by_name | by_id or numbered & {id_of_name(value)}
