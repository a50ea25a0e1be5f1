"""Partitions a dataset once and stores the result. New images append partitions, so existing ones never change."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, FailFast

from pipeline.data.datasets.record import ImageRecord
from pipeline.data.datasets.record_index import RecordIndex, open_index
from pipeline.data.datasets.source import DataSource
from pipeline.data.images.folders import open_folder
from pipeline.data.images.opening import DEFAULT_LIMITS, BadImage, ImageLimits, fingerprint
from pipeline.data.images.refs import ImageRef, UprightImage, state_of
from pipeline.data.sample import Sample
from pipeline.runtime.stage import Partition
from storage.atomic import write_atomic
from storage.damage import CUT_LIMITS, CUT_REMEDY
from storage.digests import digest_json
from storage.errors import FatalError
from storage.json_files import read_json, sealed_json
from storage.store import Store

CUTS = "cuts"
"""Folder of a store that holds how its datasets are partitioned."""
DIGESTS = "digests.json"
"""File that caches the digests of partitions: one in the index, and one beside it that outlives the index."""
_SETTLED_NS = 2_000_000_000
"""A file changed more recently than this before it was read may change again within the same timestamp tick."""


def partition_dataset(
    source: DataSource,
    size: int,
    indexes: Path | None,
    fingerprint_by: Literal["bytes", "stat"],
    store: Store,
    limits: ImageLimits = DEFAULT_LIMITS,
) -> Iterator[Partition]:
    """Yields the stored partitions of a dataset, extended by new images. Ids no longer in it are left out.

    The digest of a partition holds the content of each image file that the limits let ingest read. A part of a dataset (`share`,
    `only`) has partitions of its own. Raises `FatalError` for a list that does not fit.
    """
    open_folder(source.images).refresh()
    # The names of bare images are their annotations, and change while a process lives.
    index = index_of(source, indexes) if source.has_boxes else open_index(source, indexes)
    index.require_one_image()
    # Datasets of other recipes may have the same name. The path of their annotations, or images, distinguishes them, and
    # the content where a path is new.
    listed = source.listed_in
    place = str(listed.absolute()) if isinstance(listed, Path) else listed
    sample = Sample.of(source, index)
    taken = frozenset(sample.image_ids)
    part = f"-{sample.name}" if sample.name else ""
    remembered = PartitionDigests(index.folder / DIGESTS)
    # New annotations replace the index and its folder. Most of them state what the earlier ones did.
    earlier = PartitionDigests(index.folder.with_name(f"{source.name}-{DIGESTS}"))

    def partition_of(number: int, image_ids: Sequence[int]) -> Partition:
        present = tuple(image_id for image_id in index.present(image_ids) if image_id in taken)
        files = _stamp(index.refs(present), [fingerprint_by, limits.max_bytes, present])
        digest = remembered.find(number, files)
        if digest is None:
            lost = [[reject.image_id, reject.reason, reject.value] for reject in index.lost] if number == 0 else []
            stated = files and digest_json([files, source.split, index.digest(present), lost])
            digest = earlier.find(number, stated)
            if digest is None:
                described = [_described(record, fingerprint_by, limits) for record in index.records(present)]
                digest = digest_json([source.split, described, lost])
            earlier.keep(number, stated, digest)
            remembered.keep(number, files, digest)
        return Partition(f"{source.name}/{number:04d}", present, digest)

    path = store.root / CUTS / f"{source.name}-{digest_json(place)[:12]}{part}.json"
    before = stored = load_cut(path)
    if not stored.partitions and path.parent.is_dir():
        names = cuts_of((other.name for other in path.parent.iterdir()), source.name, re.escape(part))
        stored = _cut_of_moved([path.with_name(name) for name in names], taken, partition_of) or stored
    cut = extend_cut(stored.partitions, sample.image_ids, size)
    partitions = [partition_of(number, image_ids) for number, image_ids in enumerate(cut)]
    now = Cut(partitions=cut, contents=[partition.digest for partition in partitions])
    if now != before:
        with suppress(FatalError):  # a store that can't be written can be planned with; a run is refused before
            store.put(path, sealed_json(now.model_dump()))
    remembered.save()
    earlier.save()
    yield from partitions


@lru_cache(maxsize=8)
def index_of(source: DataSource, folder: Path | None) -> RecordIndex:
    """Opens the record index of a source, once per process."""
    return open_index(source, folder)


def extend_cut(cut: Sequence[Sequence[int]], image_ids: Sequence[int], size: int) -> list[list[int]]:
    """Appends ids missing from `cut` as new partitions of `size` images. Existing partitions stay as they are."""
    known = {image_id for partition in cut for image_id in partition}
    fresh = [image_id for image_id in image_ids if image_id not in known]
    return [list(p) for p in cut] + [fresh[i : i + size] for i in range(0, len(fresh), size)]


class Cut(BaseModel):
    """How a dataset is partitioned."""

    partitions: Annotated[list[Annotated[list[int], FailFast()]], FailFast()] = []
    """The image ids of each partition."""
    contents: list[str] = []
    """The digest of each partition when it was last planned. Stores of earlier versions lack it."""


def load_cut(path: Path) -> Cut:
    """Loads the stored partitions; empty if there are none. Raises `FatalError` when the file is damaged."""
    with suppress(FileNotFoundError):
        return read_json(path, Cut, CUT_REMEDY, CUT_LIMITS)
    return Cut()


def cuts_of(names: Iterable[str], dataset: str, part: str = "(-.+)?") -> list[str]:
    """Chooses the cuts of a dataset, wherever its annotations lie, from names of files in `cuts/`. `part` is a pattern."""
    return sorted(name for name in names if re.fullmatch(rf"{re.escape(dataset)}-[0-9a-f]{{12}}{part}\.json", name))


def _cut_of_moved(
    others: Iterable[Path], taken: frozenset[int], partition_of: Callable[[int, Sequence[int]], Partition]
) -> Cut | None:
    """Finds the cut of a dataset that lay elsewhere when it was partitioned: it was moved, copied or pulled.

    It is recognised by the content of its first or last partition; a cut of an earlier version, by ids that are all here.
    """
    cuts = [cut for cut in map(load_cut, others) if cut.partitions]
    for cut in sorted(cuts, key=lambda cut: -len(cut.partitions)):
        ends = {0, len(cut.partitions) - 1}
        if not cut.contents:
            known = all(taken.issuperset(image_ids) for image_ids in cut.partitions)
        else:
            known = any(cut.contents[at : at + 1] == [partition_of(at, cut.partitions[at]).digest] for at in ends)
        if known:
            return cut
    return None


class _Digests(BaseModel):
    digests: dict[str, tuple[str, str]]


class PartitionDigests:
    """Cached digests by partition number, each valid while a stamp of what it follows from stays the same."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, tuple[str, str]] = {}
        with suppress(OSError, FatalError):
            self._known = read_json(path, _Digests).digests
        self._changed = False

    def find(self, number: int, stamp: str | None) -> str | None:
        """The cached digest of a partition; None if it has another stamp now, or none."""
        found = self._known.get(str(number))
        return found[1] if found is not None and found[0] == stamp else None

    def keep(self, number: int, stamp: str | None, digest: str) -> None:
        """Caches the digest of a partition that has a stamp."""
        if stamp is not None:
            self._known[str(number)] = (stamp, digest)
            self._changed = True

    def save(self) -> None:
        """Writes new digests. If the folder is not writable, the next plan reads the files again."""
        if self._changed:
            with suppress(OSError):
                write_atomic(self._path, sealed_json({"digests": self._known}))


def damaged_digests(indexes: Path) -> Iterator[tuple[Path, str]]:
    """Read all cached digests in a folder of indexes. Yields each file with what is wrong with it, "" where nothing is."""
    for path in sorted((*indexes.glob(f"*/{DIGESTS}"), *indexes.glob(f"*-{DIGESTS}"))):
        try:
            read_json(path, _Digests)
            yield path, ""
        except FatalError as error:
            yield path, str(error)


def _described(record: ImageRecord, fingerprint_by: Literal["bytes", "stat"], limits: ImageLimits) -> list[Any]:
    """Everything that determines the row of an image, as JSON values: annotations and the fingerprint of its file."""
    try:
        found = fingerprint(record.path, fingerprint_by, limits=limits)
    except BadImage as bad:
        found = bad.reason
    boxes = [[str(value) for value in box] for box in record.boxes]
    rejects = [[reject.reason, reject.value] for reject in record.rejects]
    read = ["upright"] if isinstance(record.path, UprightImage) else []
    stated = [record.image_id, record.path.name, record.width, record.height, boxes, record.relations, rejects]
    return [*stated, found, *read]


def _stamp(refs: Iterable[ImageRef], rest: Any) -> str | None:
    """Digest of `rest` and of size, times and inode of all files; None if one changed so recently that it may change unseen."""
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
