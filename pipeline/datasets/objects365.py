"""Objects365 v2: COCO's JSON layout with its own file names and misspelt category names (spec 4.4)."""

from __future__ import annotations

from pathlib import PurePosixPath

from pipeline.datasets.coco import CocoReader

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


class Objects365Reader(CocoReader):
    """`images` is the folder that holds patch0, patch1, ...; names come out lower-case, without typos and blanks.

    Slash names ("cabinet/shelf") stay as they are. Doubled boxes, frequent in this set, are dropped by `validate`.
    """

    def _category(self, name: str) -> str:
        name = name.strip().lower()
        return _SPELLING.get(name, name)

    def _relative_path(self, file_name: str) -> str:
        """`images/v2/patch16/objects365_v2_00900461.jpg` lies at `patch16/objects365_v2_00900461.jpg`."""
        return str(PurePosixPath(*PurePosixPath(file_name).parts[-2:]))
