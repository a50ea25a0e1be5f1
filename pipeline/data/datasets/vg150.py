"""Reads VG150 (Xu et al. 2017): Visual Genome with 150 object and 50 predicate names, in `VG-SGG.h5`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pipeline.data.datasets.annotations import AnnotationError, as_id, as_object, as_size, read_json, readable, shown
from pipeline.data.datasets.json_stream import stream_rows
from pipeline.data.datasets.record import Box, Draft, ImageRecord, name_of
from pipeline.data.datasets.visual_genome import IMAGE_DATA, VisualGenomeReader

EXPECTED = "VG150: the HDF5 file VG-SGG.h5 with boxes_1024, labels, relationships, predicates, split and img_to_..."
DICTIONARY = "VG-SGG-dicts.json: an object with idx_to_label and idx_to_predicate"
SPLITS = ("train", "val", "trainval", "test")
VALIDATION_IMAGES = 5000
"""Number of training images with relations that are "val", by convention of scene graph projects."""
SCALE = 1024
TEST = 2
_MOST = 2**28
"""Maximum bytes of all arrays. VG150's take a fifth of it; a file may claim any size and hold nothing."""
DAMAGED = frozenset({1592, 1722, 4616, 4617})
"""Images that image_data lists and the HDF5 file leaves out, because their files are damaged."""


class Vg150Reader(VisualGenomeReader):
    """Yields the images of a split in the order of image_data. `annotations` names the HDF5 file.

    `split` is "train", "val", "trainval" or "test". Boxes are stored as centre and size, for a longer side of 1024
    pixels, and are scaled back to the size that image_data states. Needs h5py: `pip install 'rlip[vg150]'`.
    """

    files: ClassVar = {"annotations": "HDF5", "dictionary": "JSON", "image_data": "JSON"}
    required = ("dictionary", "image_data")

    def _records(self) -> Iterator[ImageRecord]:
        if self.source.split not in SPLITS:
            raise AnnotationError(
                f"split {self.source.split!r} is not a split of VG150; set one of {', '.join(SPLITS)}"
            )
        labels, predicates = self._dictionary()
        self.objects, self.predicates = tuple(labels), tuple(predicates)
        images = self._sizes()
        columns = _columns(self.annotation_file)
        count = len(columns["split"])
        if count != len(images):
            raise AnnotationError(
                f"{self.annotation_file}: holds {count} images, {self.source.image_data} lists {len(images)} of those "
                "that are not damaged; they are of different versions"
            )
        chosen = _chosen(columns, self.source.split)
        if not len(chosen):
            raise AnnotationError(
                f"{self.annotation_file}: none of its {count} images is of split {self.source.split!r}; set another: "
                f'"val" has the first {VALIDATION_IMAGES:,} training images with relations, "trainval" has all of them'
            )
        for position in chosen:
            yield self._from_columns(columns, int(position), images[position])

    def _dictionary(self) -> tuple[list[str], list[str]]:
        path = self.required_file("dictionary")
        content = read_json(path, DICTIONARY)
        found = []
        for field in ("idx_to_label", "idx_to_predicate"):
            names = content.get(field) if isinstance(content, dict) else None
            ordered = [names.get(str(i)) for i in range(1, len(names) + 1)] if isinstance(names, dict) else []
            if not ordered or not all(isinstance(name, str) for name in ordered):
                raise AnnotationError(f"{path}: {field!r} does not name 1, 2, 3, ...; expected {DICTIONARY}")
            found.append([readable(str(name).strip()) for name in ordered])
        return found[0], found[1]

    def _sizes(self) -> list[tuple[int, int, int]]:
        """Id, width and height of each image that the HDF5 file has, in its order."""
        path = self.required_file("image_data")
        images = []
        for entry in stream_rows(path, IMAGE_DATA):
            found = as_object(entry)
            image_id = as_id(found.get("image_id", found.get("id")))
            width, height = as_size(found.get("width")), as_size(found.get("height"))
            if image_id is None or width is None or height is None:
                raise AnnotationError(f"{path}: entry without id or size: {shown(entry)}; expected {IMAGE_DATA}")
            if image_id not in DAMAGED:
                images.append((image_id, width, height))
        return images

    def _from_columns(
        self, columns: dict[str, NDArray[Any]], position: int, image: tuple[int, int, int]
    ) -> ImageRecord:
        image_id, width, height = image
        first, last = (int(columns[f"img_to_{end}_box"][position]) for end in ("first", "last"))
        chosen = slice(first, last + 1) if first >= 0 else slice(0, 0)
        scaled = columns["boxes_1024"][chosen].astype(np.float64) * (max(width, height) / SCALE)
        scaled[:, :2] -= scaled[:, 2:] / 2
        draft, names = Draft(image_id), dict(enumerate(self.objects, start=1))
        for offset, (label, box) in enumerate(zip(columns["labels"][chosen].tolist(), scaled.tolist(), strict=True)):
            with draft.rejecting(label):
                draft.add(Box(name_of(names, label, "unknown category id"), *box), first + offset)
        first, last = (int(columns[f"img_to_{end}_rel"][position]) for end in ("first", "last"))
        chosen = slice(first, last + 1) if first >= 0 else slice(0, 0)
        predicates = dict(enumerate(self.predicates, start=1))
        pairs, numbers = (columns[name][chosen].tolist() for name in ("relationships", "predicates"))
        for (subject, target), number in zip(pairs, numbers, strict=True):
            with draft.rejecting((subject, number, target)):
                draft.relate(subject, name_of(predicates, number, "unknown verb id"), target)
        return self.drafted(draft, self.folder.place(f"{image_id}.jpg"), (width, height))


_LISTS = ("labels", "predicates", "split")
_BY_IMAGE = ("split", "img_to_first_box", "img_to_last_box", "img_to_first_rel", "img_to_last_rel")


def _columns(path: Path) -> dict[str, NDArray[Any]]:
    """Reads the arrays of the HDF5 file. Raises `AnnotationError`."""
    try:
        import h5py
    except ImportError as error:
        raise AnnotationError(f"{path}: needs h5py, which is not installed: pip install 'rlip[vg150]'") from error
    names = ("boxes_1024", "labels", "relationships", "predicates", *_BY_IMAGE)
    try:
        with h5py.File(path, "r") as file:
            # A link, external storage and a virtual array can lead to other files.
            for name in names:
                array = file.get(name) if isinstance(file.get(name, getlink=True), h5py.HardLink) else None
                is_data = isinstance(array, h5py.Dataset) and not array.external and not array.is_virtual
                if array is None or not is_data or array.dtype.kind not in "iuf":
                    raise AnnotationError(f"{path}: has no array of numbers {name}; expected {EXPECTED}")
            if (size := sum(file[name].nbytes for name in names)) > _MOST:
                raise AnnotationError(
                    f"{path}: claims {size:,} bytes of arrays, {_MOST:,} at most are read; expected {EXPECTED}"
                )
            columns: dict[str, NDArray[Any]] = {name: np.asarray(file[name]) for name in names}
    except OSError as error:
        raise AnnotationError(f"{path}: can't be read as HDF5 ({error}); expected {EXPECTED}") from error
    for name in _LISTS:
        columns[name] = columns[name].reshape(-1)
    boxes, pairs = len(columns["labels"]), len(columns["predicates"])
    lengths = {name: len(columns[name]) for name in _BY_IMAGE}
    if columns["boxes_1024"].shape != (boxes, 4) or columns["relationships"].shape != (pairs, 2):
        raise AnnotationError(f"{path}: boxes and labels, or relationships and predicates, differ in number")
    if len(set(lengths.values())) != 1:
        raise AnnotationError(f"{path}: the lists by image are of different lengths: {lengths}")
    return columns


def _chosen(columns: dict[str, NDArray[Any]], split: str) -> NDArray[np.int64]:
    """The positions of a split's images. Of the training images that have relations, the first 5,000 are "val"."""
    of_test = columns["split"] == TEST
    if split == "test":
        return np.flatnonzero(of_test)
    if split == "trainval":
        return np.flatnonzero(~of_test)
    usable = np.flatnonzero(~of_test & (columns["img_to_first_box"] >= 0) & (columns["img_to_first_rel"] >= 0))
    kept = usable[:VALIDATION_IMAGES]
    return kept if split == "val" else np.setdiff1d(np.flatnonzero(~of_test), kept)
