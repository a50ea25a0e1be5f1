"""The settings of one dataset in a recipe: its format and files."""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationError, model_validator

from pipeline.data.images.folders import ImageRoot, UprightRoot, open_folder
from pipeline.runtime.plugins import PluginName, PluginOptions, load_plugin, options_of, plugin_names
from pipeline.runtime.settings import Settings, data_file, has_mark, runtime
from storage.digests import digest_file
from storage.errors import FatalError

_ENDS = {b"{": b"}", b"[": b"]"}


class DataSource(Settings):
    """A dataset: a folder of images and its annotation files. Rows depend on their content, never on paths.

    Which images `share` or `only` takes is part of the digest of each partition.
    """

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    """Name of the dataset in tables and reports."""
    format: Annotated[str, AfterValidator(PluginName("datasets"))] = "coco"
    """The layout of the annotation files. images: no annotations, so that stage `detect` finds the boxes."""
    options: PluginOptions = runtime(PluginOptions())
    """Settings of a format that another package adds (docs/api.md)."""
    split: str = Field("train", max_length=100, pattern=r"^\w[\w.-]*$")
    """The name of the split in tables and exports."""
    images: ImageRoot = data_file(...)
    """Root of the file names in the annotations: a folder, a .tar, or a URL such as s3://bucket/folder."""
    annotations: Path | None = data_file(None)
    """The main annotation file (docs/datasets.md), required by every format but images."""
    relations: Path | None = data_file(None)
    """coco, coco_panoptic, lvis, objects365: relations between boxes (docs/datasets.md, Formats)."""
    image_data: Path | None = data_file(None)
    """visual_genome, vg150: image_data JSON with image sizes and images without relations. open_images,
    open_images_boxes: CSV with sizes."""
    objects: Path | None = data_file(None)
    """visual_genome: objects JSON, for boxes without a relation. hico_det: object names by id (default: COCO's 80).
    vrd: names."""
    verbs: Path | None = data_file(None)
    """hico_det: verb names by id."""
    predicate_aliases: Path | None = data_file(None)
    """visual_genome: file with a group of equivalent predicates per line, to find near-duplicate relations."""
    object_aliases: Path | None = data_file(None)
    """visual_genome: the same for object names."""
    instances: Path | None = data_file(None)
    """vcoco: COCO's instances JSON, with the boxes that actions name by annotation id."""
    classes: Path | None = data_file(None)
    """open_images, open_images_boxes: class descriptions CSV."""
    boxes: Path | None = data_file(None)
    """open_images: bbox annotations CSV, for boxes without a relation."""
    predicates: Path | None = data_file(None)
    """vrd: JSON list of predicate names."""
    dictionary: Path | None = data_file(None)
    """vg150: VG-SGG-dicts JSON with the names of labels and predicates."""

    share: float | None = runtime(None, gt=0, lt=1)
    """Share of the images to use, by a hash of `seed` and image id, so a smaller share is part of a larger one. Unset:
    all."""
    seed: int = runtime(0, ge=0)
    """Seed that selects the images of `share`."""
    only: Path | None = data_file(None)
    """File that lists the images to use, by id or file name, in any form that `shard.exclude.ids` reads."""

    drop_fake: bool = False
    """objects365: exclude boxes of depicted objects (`isfake`). The authors keep them."""
    drop_reflected: bool = False
    """objects365: exclude boxes of reflections (`isreflected`). The authors keep them."""

    @property
    def reader(self) -> Any:
        """The class of the format's reader, a `Reader`. Raises `FatalError` if its package is broken."""
        return load_plugin("datasets", self.format)

    @property
    def has_boxes(self) -> bool:
        """Whether annotations give the boxes; otherwise a detector finds them."""
        return bool(self.reader.files)

    @property
    def image_root(self) -> Path | str:
        """The root of the images. Those with annotated boxes are read in raw pixels, others upright."""
        return self.images if self.has_boxes else UprightRoot(self.images)

    @property
    def sample(self) -> dict[str, Any]:
        """How a part of the images is chosen, for manifests; empty for a whole dataset."""
        if self.only is not None:
            return {"only": self.only.name, "digest": digest_file(self.only)}
        return {} if self.share is None else {"share": self.share, "seed": self.seed}

    @property
    def listed_in(self) -> Path | str:
        """What lists the images: the annotation file, or else their folder."""
        return self.images if self.annotations is None else self.annotations

    @model_validator(mode="after")
    def _files_fit_the_format(self) -> DataSource:
        if self.has_boxes and self.annotations is None:
            raise ValueError(
                f'annotations: required by format {self.format!r}; set it, or format = "images" for images without any'
            )
        if not self.has_boxes and self.annotations is not None:
            raise ValueError(f"annotations: not used by format {self.format!r}; remove it, or name its format")
        options_of(self.reader, self.options, "options")
        for name in FURTHER_FILES:
            is_set = getattr(self, name) is not None
            if is_set and name not in self.reader.files:
                raise ValueError(f"{name}: not used by format {self.format!r}; remove it")
            if not is_set and name in self.reader.required:
                raise ValueError(f"{name}: required by format {self.format!r}; set it")
        if self.share is not None and self.only is not None:
            raise ValueError("share: can't be combined with `only`, which already lists the images; remove one of them")
        for name in ("drop_fake", "drop_reflected"):
            if getattr(self, name) and self.format != "objects365":
                raise ValueError(f"{name}: only for format 'objects365'; remove it")
        return self

    def unreadable(self) -> list[str]:
        """Annotation files of another kind than the format has, as "field: path is ..." lines.

        Only start and end of each file are read.
        """
        kinds = self.reader.files
        faults = ((name, path, file_fault(path, kinds.get(name, "text"))) for name, path in self._files())
        return [f"{name}: {path} {what}" for name, path, what in faults if what]

    def missing(self) -> list[str]:
        """Files and folders of the source that do not exist, as "field: path" lines; empty when all exist."""
        fault = open_folder(self.images).fault()
        return [*([f"images: {fault}"] if fault else []), *self.missing_files()]

    def places(self) -> Iterator[Path | str]:
        """The annotation files and the root of the images, whether or not they exist."""
        yield from (path for _, path in self._files())
        yield self.images

    def missing_files(self) -> list[str]:
        """Annotation files that do not exist, as "field: path" lines; empty when all exist."""
        lacking = []
        for name, path in self._files():
            try:
                if not path.is_file():
                    lacking.append(f"{name}: no file {path}")
            except OSError as error:
                lacking.append(f"{name}: can't be read ({error.strerror})")
        return lacking

    def _files(self) -> Iterator[tuple[str, Path]]:
        """The files that are set, by field: the annotations, those next to them, and the list of images."""
        for name in ("annotations", *sorted(self.reader.files.keys() - {"annotations"}), "only"):
            path: Path | None = getattr(self, name)
            if path is not None:
                yield name, path


FURTHER_FILES = tuple(
    sorted(
        name
        for name, field in DataSource.model_fields.items()
        if has_mark(field.json_schema_extra, "data_file") and name not in ("images", "annotations", "only")
    )
)
"""The fields of a source that name files besides its annotations."""


def annotation_source(format_name: str, annotations: Path, files: Mapping[str, Path]) -> DataSource:
    """A source for reading annotations alone, which needs no folder of images.

    `files`: further files by their field of `DataSource`. Raises `FatalError` for an unknown format, and for a file
    that the format lacks or does not use.
    """
    own = {"name": format_name, "format": format_name, "images": annotations.parent, "annotations": annotations}
    try:
        return DataSource.model_validate({**own, **files})
    except ValidationError as error:
        if format_name not in (known := plugin_names("datasets")):
            raise FatalError(f"no format {format_name!r}; the formats are {', '.join(known)}") from None
        faults = "; ".join(found["msg"].removeprefix("Value error, ") for found in error.errors())
        raise FatalError(f"{annotations} as {format_name}: {faults} (--file FIELD=PATH)") from None


def file_fault(path: Path, kind: str) -> str:
    """Describes a file that isn't of a kind ("JSON", "CSV", "HDF5") by its ends; "" for one that may be."""
    if kind not in ("JSON", "CSV", "HDF5") or (kind == "JSON" and path.suffix == ".parquet"):
        return ""
    try:
        with path.open("rb") as file:
            head = file.read(64)
            file.seek(max(0, path.stat().st_size - 64))
            tail = file.read().rstrip(b" \t\r\n\0")
    except OSError as error:
        return f"can't be read ({error.strerror})"
    first = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
    if kind == "JSON" and first in _ENDS:
        if tail[-1:] == _ENDS[first]:
            return ""
        return (
            f"ends in the middle of its JSON, with {tail[-20:]!r}: it was not written or downloaded completely; "
            "download it again"
        )
    if fault := _other_file(head):
        return fault
    is_table = b"," in head and b"\0" not in head and head.lstrip(b"\xef\xbb\xbf")[:1] not in (b"{", b"[", b"<")
    if (kind == "CSV" and is_table) or (kind == "HDF5" and head.startswith(b"\x89HDF\r\n\x1a\n")):
        return ""
    named = "a CSV table" if kind == "CSV" else kind
    return f"is not {named}: it begins with {head[:20]!r}; check that it is the right file"


def _other_file(head: bytes) -> str:
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
