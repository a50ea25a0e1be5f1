"""The settings of one data set in a recipe: its format and files."""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from pipeline.data.images.folders import ImageRoot, open_folder
from pipeline.runtime.settings import Settings, runtime

Format = Literal["coco", "objects365", "visual_genome", "hico_det"]

_OPTIONAL_FILES: dict[Format, frozenset[str]] = {
    "coco": frozenset({"relations"}),
    "objects365": frozenset({"relations"}),
    "visual_genome": frozenset({"image_data", "objects", "predicate_aliases", "object_aliases"}),
    "hico_det": frozenset({"verbs", "objects"}),
}
_REQUIRED_FILES: dict[Format, frozenset[str]] = {"hico_det": frozenset({"verbs"})}


_ENDS = {b"{": b"}", b"[": b"]"}


class DataSource(Settings):
    """A data set: a folder of images and its annotation files. Rows depend on their content, never on paths."""

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    """Name of the data set in tables and reports."""
    format: Format = "coco"
    """The layout of the annotation files."""
    split: str = "train"
    """The name of the split in tables and exports."""
    images: ImageRoot = runtime(...)
    """Root of the file names in the annotations: a folder, a .tar, or a URL such as s3://bucket/folder."""
    annotations: Path = runtime(...)
    """coco, objects365: instances JSON; visual_genome: relationships JSON; hico_det: the list of images with pairs."""
    relations: Path | None = runtime(None)
    """coco, objects365: relations between boxes, in the pair layout described in `pipeline/data/datasets/pairs.py`."""
    image_data: Path | None = runtime(None)
    """visual_genome: image_data JSON with image sizes and images without relations."""
    objects: Path | None = runtime(None)
    """visual_genome: objects JSON, for boxes in no relation. hico_det: object names by id (default: COCO's 80)."""
    verbs: Path | None = runtime(None)
    """hico_det: verb names by id."""
    predicate_aliases: Path | None = runtime(None)
    """visual_genome: file with equivalent predicates per line, used only to find near-duplicate relations."""
    object_aliases: Path | None = runtime(None)
    """visual_genome: file with equivalent object names per line, used in the same way."""

    drop_fake: bool = False
    """objects365: leave out boxes of depicted objects (`isfake`). The authors keep them."""
    drop_reflected: bool = False
    """objects365: leave out boxes of reflections (`isreflected`). The authors keep them."""

    @model_validator(mode="after")
    def _files_fit_the_format(self) -> DataSource:
        for name in sorted({"relations", "image_data", "objects", "verbs", "predicate_aliases", "object_aliases"}):
            given = getattr(self, name) is not None
            if given and name not in _OPTIONAL_FILES[self.format]:
                raise ValueError(f"{name}: not used by format {self.format!r}; remove it")
            if not given and name in _REQUIRED_FILES.get(self.format, frozenset()):
                raise ValueError(f"{name}: required by format {self.format!r}; set it")
        for name in ("drop_fake", "drop_reflected"):
            if getattr(self, name) and self.format != "objects365":
                raise ValueError(f"{name}: only for format 'objects365'; remove it")
        return self

    def unreadable(self) -> list[str]:
        """Annotation files that cannot be JSON, as "field: path is ..." lines. Only start and end of each file are read."""
        found = []
        for name in ("annotations", "relations", "image_data", *self._json_lists()):
            path: Path | None = getattr(self, name)
            if path is not None and (what := json_fault(path)):
                found.append(f"{name}: {path} {what}")
        return found

    def _json_lists(self) -> tuple[str, ...]:
        return ("objects",) if self.format == "visual_genome" else ()

    def missing(self) -> list[str]:
        """Files and folders of the source that do not exist, as "field: path" lines; empty when all exist."""
        fault = open_folder(self.images).fault()
        lacking = [f"images: {fault}"] if fault else []
        for name in ("annotations", *sorted(_OPTIONAL_FILES[self.format])):
            path = getattr(self, name)
            if path is not None and not path.is_file():
                lacking.append(f"{name}: no file {path}")
        return lacking


def json_fault(path: Path) -> str:
    """Describes a file that is not JSON, by its start and its end; "" for one that may be."""
    if path.suffix == ".parquet":
        return ""
    try:
        with path.open("rb") as file:
            head = file.read(64)
            file.seek(max(0, path.stat().st_size - 64))
            tail = file.read().rstrip(b" \t\r\n\0")
    except OSError as error:
        return f"can't be read ({error.strerror})"
    first = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
    if first in _ENDS:
        if tail[-1:] == _ENDS[first]:
            return ""
        return f"ends in the middle of its JSON, with {tail[-20:]!r}: it was not written or downloaded completely; get it again"
    if not head:
        return "is empty; download it again"
    if head.startswith((b"\x1f\x8b", b"PK")):
        return "is compressed; unpack it first"
    if head.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the file itself; fetch it with `git lfs pull`"
    return f"is not JSON: it begins with {head[:20]!r}; check that it is the right file"


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
