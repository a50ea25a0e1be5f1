"""Keeps test images out of training data: by lists of ids or names, by their bytes, and by perceptual hashes."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from pipeline.data.datasets.annotations import AnnotationError, as_id, as_object, explained, opening, shown
from pipeline.data.datasets.json_stream import stream_fields, stream_lists, stream_rows
from pipeline.data.images.perceptual_hash import near_duplicates
from pipeline.runtime.settings import Settings, data_file
from storage.errors import FatalError

SAME_BYTES = "same bytes"
SAME_ID = "same image id"
NEAR_DUPLICATE = "near-duplicate"

IDS = (
    "image ids: a text file with one id or file name per line (# starts a comment), a JSON list of ids, of file names "
    "or of objects with image_id, img_id, id or file_name, or a JSON object with such a list as images (COCO), "
    "filenames or annotations"
)
"""What a list of images may be, in words."""
_MAP = (
    "a map of image ids: Visual Genome's image_data.json (a list of {image_id, coco_id}), or a JSON object "
    '{"image id": id in the list}'
)
_LISTS = ("images", "filenames", "annotations")
"""Fields of a JSON object that may list the images; the first one present is read."""
_FIELDS = ("image_id", "img_id", "id", "file_name")
_NUMBERED_FILE = re.compile(r"(?<![0-9A-Za-z])(\d+)\.[A-Za-z]\w*$")
_NAME = re.compile(r"(?!.*\.(?i:jpe?g|png|webp|tiff?|bmp)\s*[,;]).+\.[A-Za-z]\w*|[^\s,;]*\d[^\s,;]*")
"""A file name with its extension, or an identifier such as Open Images' `000a1aa0a2e5b5d1`, but no row of a table."""


class ExclusionList(Settings):
    """A list of images that must not be trained on, such as a test set. Rows depend on its files' content, not on
    paths. COCO 2014 and 2017 number their images alike, so a list of one also fits the other.
    """

    ids: Path = data_file(...)
    """File with image ids or file names: text or JSON (docs/shards.md, What is excluded), e.g. `vcoco_test.ids` or COCO
    annotations."""
    reason: str = Field(min_length=1)
    """Why its images are excluded, for reports, e.g. "V-COCO test"."""
    datasets: tuple[str, ...] = ()
    """Datasets that number their images as the list or `map` does. Empty: all."""
    map: Path | None = data_file(None)
    """File that maps image ids of `datasets` to ids of the list, such as Visual Genome's `image_data.json`."""

    @model_validator(mode="after")
    def _map_names_its_datasets(self) -> ExclusionList:
        if self.map is not None and not self.datasets:
            raise ValueError("map: applies only to datasets whose image ids it maps; name them in `datasets`")
        return self


class Contaminated(NamedTuple):
    """Why an image must not be trained on: a short, countable reason, and the list's id or the test image."""

    reason: str
    value: str


def exclusion_files(lists: Sequence[ExclusionList]) -> dict[str, Path]:
    """The files of the lists by role, for `Stage.files`. Raises `FatalError` when one is missing."""
    files: dict[str, Path] = {}
    for number, each in enumerate(lists):
        named = {"list": each.ids, "map": each.map}
        files |= {f"exclude {number} {role}": path for role, path in named.items() if path is not None}
    for role, path in files.items():
        if not path.is_file():
            expected = _MAP if role.endswith("map") else IDS
            raise FatalError(f"{path}: no such file; expected {expected}")
    return files


class ListedImages(NamedTuple):
    """The images of a list."""

    ids: frozenset[int]
    names: frozenset[str] = frozenset()
    """File names and text ids, with and without their folders."""
    numbers: frozenset[int] = frozenset()
    """The numbers at the end of names, which are ids in datasets whose file names end with their ids."""

    def find(self, image_id: int, uri: str) -> str:
        """The id or name by which the list has an image; "" if it doesn't have it.

        Ids of COCO 2014 and 2017 are the same, so the id is enough whatever the release.
        """
        if image_id in self.ids or (image_id in self.numbers and image_id == id_of_name(uri)):
            return f"id {image_id}"
        return next((f"name {name}" for name in names_of(uri) if name in self.names), "")


def names_of(uri: str) -> tuple[str, str, str]:
    """What a list may call an image: its file name with and without folders, and without the extension."""
    place = PurePosixPath(uri.replace("\\", "/"))
    return str(place), place.name, place.stem


def read_list(path: Path) -> ListedImages:
    """Reads a list of images.

    It may be a text with one id or file name per line, where # starts a comment; a JSON list of ids, file names, or
    objects with `image_id`, `img_id` (HICO-DET), `id` or `file_name`; or a JSON object with such a list as `images`
    (COCO annotations), `filenames` or `annotations` (V-COCO and HICO-DET of other projects). A text is a name and, if
    it consists of digits, an id as well; ids below 0 must be numbers. Raises `FatalError` that names the file, the
    entry at fault and what is allowed.
    """
    ids: set[int] = set()
    names: set[str] = set()
    numbers: set[int] = set()
    for where, entry in list_entries(path):
        value = listed_value(entry)
        image_id = as_id(value)
        is_name = isinstance(value, str) and _NAME.fullmatch(value) is not None
        if isinstance(value, str) and (image_id or 0) < 0:
            # Existing shards with the same key may have read it as a file name.
            raise FatalError(f"{path}: {where} is an id below 0 as text: {shown(entry)}; give ids as numbers, in JSON")
        if image_id is not None:
            ids.add(image_id)
        elif not is_name:
            raise FatalError(f"{path}: {where} is not an image id: {shown(entry)}; expected {IDS}")
        if is_name and (number := id_of_name(value)) is not None:
            numbers.add(number)
        # Datasets with ids of their own have the images of COCO annotations under their file names.
        stated = entry.get("file_name") if isinstance(entry, dict) else value
        if isinstance(stated, str) and _NAME.fullmatch(stated):
            names.update(names_of(stated)[:2])
    if not ids and not names:
        raise FatalError(f"{path}: names no image; expected {IDS}")
    return ListedImages(frozenset(ids), frozenset(names), frozenset(numbers))


class Contamination:
    """Finds images that must not be trained on, because a list or a test set has them."""

    def __init__(self, lists: Sequence[ExclusionList], fingerprints: pa.Table | None, distance: int | None) -> None:
        """`fingerprints` has the rows of all test sets (None: no test set).

        Near-duplicates are images whose perceptual hashes differ by at most `distance` bits; None compares no hashes.
        Raises `FatalError` for a bad list.
        """
        rows = fingerprints.to_pylist() if fingerprints is not None else []
        hashed = [row for row in rows if row["phash"] is not None]
        self._lists = [(each, _listed_by(each)) for each in lists]
        self._distance = distance
        # Reversed, so that of equal images the first is named.
        self._by_digest = {row["digest"]: _name(row) for row in reversed(rows)}
        self._names = {_name(row) for row in rows}
        self._hashed = [_name(row) for row in hashed]
        self._hashes = np.array([row["phash"] for row in hashed], np.uint64)

    def listed(self, dataset: str, image_id: int, uri: str) -> Contaminated | None:
        """The first list that has an image, which is known before the image is read."""
        for each, images in self._lists:
            if (not each.datasets or dataset in each.datasets) and (how := images.find(image_id, uri)):
                return Contaminated(each.reason, how)
        return None

    def find(self, dataset: str, image_id: int, digest: str, phash: int | None) -> Contaminated | None:
        """The test image that an image is a copy of; None if it may be trained on.

        `digest` is the sha256 of its bytes in hex, and `phash` its perceptual hash.
        """
        # These reasons are rows of excluded.parquet, so they keep their words.
        if (same := self._by_digest.get(digest)) is not None:
            return Contaminated(f"{SAME_BYTES} as an evaluation image", same)
        if (name := f"{dataset}/{image_id}") in self._names:
            return Contaminated(f"{SAME_ID} as an evaluation image", name)
        if phash is None or self._distance is None:
            return None
        near = near_duplicates(np.array([phash], np.uint64), self._hashes, self._distance)
        if not near:
            return None
        _, nearest, bits = min(near, key=lambda pair: pair[2])
        return Contaminated(f"{NEAR_DUPLICATE} of an evaluation image", f"{self._hashed[nearest]} at distance {bits}")


def _name(row: Mapping[str, Any]) -> str:
    return f"{row['dataset']}/{row['image_id']}"


def list_entries(path: Path) -> Iterator[tuple[str, Any]]:
    """Yields the entries of a list of images, each with its place in words. Raises `FatalError` as `read_list`."""
    first = opening(path, IDS)
    if first == "{":
        yield from _listed_in_object(path)
    elif first == "[":
        yield from ((f"element {number}", entry) for number, entry in enumerate(stream_rows(path, IDS), 1))
    else:
        with explained(path, IDS), path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if text := line.partition("#")[0].strip():
                    yield f"line {number}", text


def _listed_in_object(path: Path) -> Iterator[tuple[str, Any]]:
    faults: list[AnnotationError] = []
    for name in _LISTS:
        try:
            for number, (_, entry) in enumerate(stream_lists(path, IDS, (name,)), 1):
                # The `id` of an annotation is not that of its image.
                own = isinstance(entry, dict) and name == "annotations"
                yield f"{name} {number}", {k: v for k, v in entry.items() if k != "id"} if own else entry
            return
        except AnnotationError as error:
            faults.append(error)
    raise faults[0]


def listed_value(entry: Any) -> Any:
    """The id or the file name in an entry of a list; None for an object without either."""
    if isinstance(entry, dict):
        return next((entry[name] for name in _FIELDS if name in entry), None)
    return entry


def id_of_name(name: str) -> int | None:
    """The digits before the extension of a file name, as a number; None where there are none."""
    numbered = _NUMBERED_FILE.search(name)
    return as_id(numbered[1]) if numbered else None


def _listed_by(settings: ExclusionList) -> ListedImages:
    """The images of a list, by the ids of the datasets whose ids it maps."""
    listed = read_list(settings.ids)
    if settings.map is None:
        return listed
    return ListedImages(frozenset(_mapped(settings.map, listed.ids | listed.numbers)))


def _mapped(path: Path, ids: Collection[int]) -> Iterator[int]:
    """The image ids that a map sends to one of `ids`. Raises `FatalError` for a file that is not a map."""
    pairs = _object_map(path) if opening(path, _MAP) == "{" else _image_data(path)
    is_empty = True
    for image_id, other in pairs:
        is_empty = False
        if other in ids:
            yield image_id
    if is_empty:
        raise FatalError(f"{path}: maps no image to an id; expected {_MAP}")


def _object_map(path: Path) -> Iterator[tuple[int, int]]:
    for name, value in stream_fields(path, _MAP):
        image_id, other = as_id(name), as_id(value)
        if value is None:
            continue
        if image_id is None or other is None:
            raise FatalError(f"{path}: {shown(name)} → {shown(value)} maps no image id to an id; expected {_MAP}")
        yield image_id, other


def _image_data(path: Path) -> Iterator[tuple[int, int]]:
    """Visual Genome's images that are also COCO's; `coco_id` of the others is null."""
    for number, entry in enumerate(stream_rows(path, _MAP), 1):
        found = as_object(entry)
        image_id = as_id(found.get("image_id", found.get("id")))
        if image_id is None:
            raise FatalError(f"{path}: element {number} has no image_id: {shown(entry)}; expected {_MAP}")
        if (other := as_id(found.get("coco_id"))) is not None:
            yield image_id, other
