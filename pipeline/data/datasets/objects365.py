"""Reads Objects365 v2: COCO's JSON layout with its own file names and misspelt category names (docs/datasets.md)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from pipeline.data.datasets.coco import CocoReader
from pipeline.data.datasets.record import ImageRecord

_SPELLING = {
    "bakset": "basket",
    "ballon": "balloon",
    "billards": "billiards",
    "buttefly": "butterfly",
    "campel": "camel",
    "extention cord": "extension cord",
    "hotair ballon": "hotair balloon",
    "moniter/tv": "monitor/tv",
    "mushroon": "mushroom",
    "noddles": "noodles",
    "table teniis paddle": "table tennis paddle",
    "tape measur/ ruler": "tape measure/ruler",
    "tape measur/ruler": "tape measure/ruler",
}
_UNPUBLISHED = frozenset(
    {
        "patch6/objects365_v1_00320532.jpg",
        "patch6/objects365_v1_00320534.jpg",
        "patch16/objects365_v2_00908726.jpg",
    }
)
"""Images that the official training annotations list but no archive contains (docs/datasets.md)."""


class Objects365Reader(CocoReader):
    """Reads Objects365. `images` is the folder with patch0, patch1, ...; names are lower-cased, stripped and corrected.

    Names with a slash ("cabinet/shelf") stay as they are. `validate` rejects duplicate boxes, which are frequent here.
    Boxes marked as fake (a depiction of the object) or as a reflection are kept, as the authors do, unless the source
    sets `drop_fake` or `drop_reflected`.
    """

    def category_name(self, name: str) -> str:
        """The name, lower-cased, stripped and corrected."""
        name = name.strip().lower()
        return _SPELLING.get(name, name)

    def _relative_path(self, file_name: str) -> str:
        """Maps `images/v2/patch16/objects365_v2_00900461.jpg` to `patch16/objects365_v2_00900461.jpg`."""
        return str(PurePosixPath(*PurePosixPath(file_name).parts[-2:]))

    def _record(self, entry: Any, seen: set[int]) -> ImageRecord | None:
        record = super()._record(entry, seen)
        if record is not None and self.name(record) in _UNPUBLISHED:
            return replace(record, unpublished=True)
        return record

    def _unwanted(self, is_fake: bool, is_reflected: bool) -> str:
        if is_fake and self.source.drop_fake:
            return "box of a fake"
        if is_reflected and self.source.drop_reflected:
            return "box of a reflection"
        return ""
