"""The settings of one dataset in a recipe: its format and files."""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field, ValidationError, model_validator

from pipeline.data.images.folders import ImageRoot, UprightRoot, open_folder
from pipeline.runtime.settings import Settings, data_file, runtime
from storage.digests import digest_file
from storage.errors import FatalError

Format = Literal[
    "coco",
    "objects365",
    "visual_genome",
    "hico_det",
    "hico_instances",
    "vcoco",
    "vcoco_instances",
    "open_images",
    "vg150",
    "vrd",
    "images",
]

_OPTIONAL_FILES: dict[Format, frozenset[str]] = {
    "coco": frozenset({"relations"}),
    "objects365": frozenset({"relations"}),
    "visual_genome": frozenset({"image_data", "objects", "predicate_aliases", "object_aliases"}),
    "hico_det": frozenset({"verbs", "objects"}),
    "hico_instances": frozenset(),
    "vcoco": frozenset({"instances"}),
    "vcoco_instances": frozenset(),
    "open_images": frozenset({"classes", "boxes", "image_data"}),
    "vg150": frozenset({"dictionary", "image_data"}),
    "vrd": frozenset({"objects", "predicates"}),
    "images": frozenset(),
}
_REQUIRED_FILES: dict[Format, frozenset[str]] = {
    "hico_det": frozenset({"verbs"}),
    "vcoco": frozenset({"instances"}),
    "open_images": frozenset({"classes"}),
    "vg150": frozenset({"dictionary", "image_data"}),
    "vrd": frozenset({"objects", "predicates"}),
}
_NAME_LISTS: dict[Format, frozenset[str]] = {"hico_det": frozenset({"verbs", "objects"})}
"""Files of names, which may be JSON or plain text."""
_TABLES: dict[Format, frozenset[str]] = {"open_images": frozenset({"annotations", "classes", "boxes", "image_data"})}
"""Files that are CSV."""
_HDF5: dict[Format, frozenset[str]] = {"vg150": frozenset({"annotations"})}

FURTHER_FILES = (
    "relations",
    "image_data",
    "objects",
    "verbs",
    "predicate_aliases",
    "object_aliases",
    "instances",
    "classes",
    "boxes",
    "predicates",
    "dictionary",
)
"""The fields of a source that name files besides its annotations."""

_ENDS = {b"{": b"}", b"[": b"]"}


class DataSource(Settings):
    """A dataset: a folder of images and its annotation files. Rows depend on their content, never on paths.

    Which images `share` or `only` takes is part of the digest of each partition.
    """

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    """Name of the dataset in tables and reports."""
    format: Format = "coco"
    """The layout of the annotation files. images: there are none, so stage `detect` finds the boxes."""
    split: str = Field("train", max_length=100, pattern=r"^\w[\w.-]*$")
    """The name of the split in tables and exports."""
    images: ImageRoot = data_file(...)
    """Root of the file names in the annotations: a folder, a .tar, or a URL such as s3://bucket/folder."""
    annotations: Path | None = data_file(None)
    """The main annotation file; docs/datasets.md says which one each format has. Required by every format but images, which
    has none."""
    relations: Path | None = data_file(None)
    """coco, objects365: relations between boxes, in the pair layout described in `pipeline/data/datasets/pairs.py`."""
    image_data: Path | None = data_file(None)
    """visual_genome, vg150: image_data JSON with image sizes and images without relations. open_images: CSV with sizes."""
    objects: Path | None = data_file(None)
    """visual_genome: objects JSON, for boxes in no relation. hico_det: object names by id (default: COCO's 80). vrd: names."""
    verbs: Path | None = data_file(None)
    """hico_det: verb names by id."""
    predicate_aliases: Path | None = data_file(None)
    """visual_genome: file with equivalent predicates per line, used only to find near-duplicate relations."""
    object_aliases: Path | None = data_file(None)
    """visual_genome: file with equivalent object names per line, used in the same way."""
    instances: Path | None = data_file(None)
    """vcoco: COCO's instances JSON, which holds the boxes that the actions name by annotation id."""
    classes: Path | None = data_file(None)
    """open_images: class descriptions CSV, with the name of each label such as /m/01g317."""
    boxes: Path | None = data_file(None)
    """open_images: bbox annotations CSV, for boxes in no relation."""
    predicates: Path | None = data_file(None)
    """vrd: JSON list of predicate names."""
    dictionary: Path | None = data_file(None)
    """vg150: VG-SGG-dicts JSON with the names of labels and predicates."""

    share: float | None = runtime(None, gt=0, lt=1)
    """Share of the images to take, e.g. 0.1, chosen by a hash of `seed` and image id: the same on every machine, and a smaller
    share is part of a larger one. Unset: all."""
    seed: int = runtime(0, ge=0)
    """Which images `share` takes."""
    only: Path | None = data_file(None)
    """File that lists the images to take, by id or file name, in the forms that `shard.exclude.ids` may have (a published
    list, or annotations of a part)."""

    drop_fake: bool = False
    """objects365: leave out boxes of depicted objects (`isfake`). The authors keep them."""
    drop_reflected: bool = False
    """objects365: leave out boxes of reflections (`isreflected`). The authors keep them."""

    @property
    def has_boxes(self) -> bool:
        """Whether annotations give the boxes; otherwise a detector finds them."""
        return self.format != "images"

    @property
    def image_root(self) -> Path | str:
        """The root that the images are read from: in raw pixels, as annotations state boxes, or upright where there are none."""
        return self.images if self.has_boxes else UprightRoot(self.images)

    @property
    def sample(self) -> dict[str, Any]:
        """How a part of the images is chosen, for manifests; empty for a whole dataset."""
        if self.only is not None:
            return {"only": self.only.name, "digest": digest_file(self.only)}
        return {} if self.share is None else {"share": self.share, "seed": self.seed}

    @property
    def listed_in(self) -> Path | str:
        """What lists the images: the annotation file, or their folder where there is none."""
        return self.images if self.annotations is None else self.annotations

    @model_validator(mode="after")
    def _files_fit_the_format(self) -> DataSource:
        if self.has_boxes and self.annotations is None:
            raise ValueError(
                f'annotations: required by format {self.format!r}; set it, or format = "images" for images without any'
            )
        if not self.has_boxes and self.annotations is not None:
            raise ValueError("annotations: not used by format 'images'; remove it, or name the format of the file")
        for name in sorted(FURTHER_FILES):
            given = getattr(self, name) is not None
            if given and name not in _OPTIONAL_FILES[self.format]:
                raise ValueError(f"{name}: not used by format {self.format!r}; remove it")
            if not given and name in _REQUIRED_FILES.get(self.format, frozenset()):
                raise ValueError(f"{name}: required by format {self.format!r}; set it")
        if self.share is not None and self.only is not None:
            raise ValueError("share: not together with `only`, which lists the images already; remove one of them")
        for name in ("drop_fake", "drop_reflected"):
            if getattr(self, name) and self.format != "objects365":
                raise ValueError(f"{name}: only for format 'objects365'; remove it")
        return self

    def unreadable(self) -> list[str]:
        """Annotation files of another kind than the format has, as "field: path is ..." lines.

        Only start and end of each file are read.
        """
        found = []
        for name in ("annotations", *sorted(_OPTIONAL_FILES[self.format])):
            path: Path | None = getattr(self, name)
            if path is not None and (what := self._fault(name, path)):
                found.append(f"{name}: {path} {what}")
        return found

    def _fault(self, name: str, path: Path) -> str:
        if name in _TABLES.get(self.format, ()):
            return csv_fault(path)
        if name in _HDF5.get(self.format, ()):
            return hdf5_fault(path)
        is_text = name in _NAME_LISTS.get(self.format, ()) or name.endswith("_aliases")
        return "" if is_text else json_fault(path)

    def missing(self) -> list[str]:
        """Files and folders of the source that do not exist, as "field: path" lines; empty when all exist."""
        fault = open_folder(self.images).fault()
        return [*([f"images: {fault}"] if fault else []), *self.missing_files()]

    def places(self) -> Iterator[Path | str]:
        """The annotation files and the root of the images, whether or not they exist."""
        files = (getattr(self, name) for name in ("annotations", *sorted(_OPTIONAL_FILES[self.format]), "only"))
        yield from (path for path in files if path is not None)
        yield self.images

    def missing_files(self) -> list[str]:
        """Annotation files that do not exist, as "field: path" lines; empty when all exist."""
        lacking = []
        for name in ("annotations", *sorted(_OPTIONAL_FILES[self.format]), "only"):
            path = getattr(self, name)
            try:
                if path is not None and not path.is_file():
                    lacking.append(f"{name}: no file {path}")
            except OSError as error:
                lacking.append(f"{name}: can't be read ({error.strerror})")
        return lacking


def annotation_source(format_name: str, annotations: Path, files: Mapping[str, Path]) -> DataSource:
    """A source of which only the annotations are read, so that no folder of images is needed.

    `files`: further files by their field of `DataSource`. Raises `FatalError` for an unknown format, and for a file that the
    format lacks or does not use.
    """
    try:
        return DataSource.model_validate(
            {
                "name": format_name,
                "format": format_name,
                "images": annotations.parent,
                "annotations": annotations,
                **files,
            }
        )
    except ValidationError as error:
        if format_name not in get_args(Format):
            raise FatalError(f"no format {format_name!r}; the formats are {', '.join(get_args(Format))}") from None
        faults = "; ".join(found["msg"].removeprefix("Value error, ") for found in error.errors())
        raise FatalError(f"{annotations} as {format_name}: {faults}") from None


def json_fault(path: Path) -> str:
    """Describes a file that is not JSON, by its start and its end; "" for one that may be."""
    if path.suffix == ".parquet":
        return ""
    try:
        head, tail = _ends(path)
    except OSError as error:
        return f"can't be read ({error.strerror})"
    first = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
    if first in _ENDS:
        if tail[-1:] == _ENDS[first]:
            return ""
        return f"ends in the middle of its JSON, with {tail[-20:]!r}: it was not written or downloaded completely; get it again"
    return _not_the_file(head) or f"is not JSON: it begins with {head[:20]!r}; check that it is the right file"


def csv_fault(path: Path) -> str:
    """Describes a file that is not a CSV table, by its start; "" for one that may be."""
    try:
        head, _ = _ends(path)
    except OSError as error:
        return f"can't be read ({error.strerror})"
    fault = _not_the_file(head)
    if not fault and (b"," not in head or b"\0" in head or head.lstrip(b"\xef\xbb\xbf")[:1] in (b"{", b"[", b"<")):
        fault = f"is not a CSV table: it begins with {head[:20]!r}; check that it is the right file"
    return fault


def hdf5_fault(path: Path) -> str:
    """Describes a file that is not HDF5, by its start; "" for one that is."""
    try:
        head, _ = _ends(path)
    except OSError as error:
        return f"can't be read ({error.strerror})"
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return ""
    return _not_the_file(head) or f"is not HDF5: it begins with {head[:20]!r}; check that it is the right file"


def _ends(path: Path) -> tuple[bytes, bytes]:
    """The first and the last 64 bytes, the latter without space at the end."""
    with path.open("rb") as file:
        head = file.read(64)
        file.seek(max(0, path.stat().st_size - 64))
        return head, file.read().rstrip(b" \t\r\n\0")


def _not_the_file(head: bytes) -> str:
    if not head:
        return "is empty; download it again"
    if head.startswith((b"\x1f\x8b", b"PK")):
        return "is compressed; unpack it first"
    if head.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the file itself; fetch it with `git lfs pull`"
    return ""


def text_fault(path: Path) -> str:
    """Describes a file that is not UTF-8 text, reading all of it; "" for one that is."""
    decoder, place = codecs.getincrementaldecoder("utf-8")(), 0
    with path.open("rb") as file:
        while data := file.read(2**20):
            try:
                decoder.decode(data)
            except UnicodeDecodeError as error:
                where = place + error.start
                return f"is not UTF-8 text (byte {where:,}): convert it, e.g. iconv -f latin1 -t utf8"
            place += len(data)
    return ""
