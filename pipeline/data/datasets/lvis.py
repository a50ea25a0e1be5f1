"""Reads LVIS v1 (Gupta et al. 2019): COCO's layout and images, with 1,203 categories and no file names."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from pipeline.data.datasets.coco import CocoReader
from pipeline.data.datasets.record import ImageRecord


class LvisReader(CocoReader):
    """Reads LVIS. `images` is the folder with COCO's train2017 and val2017, both of which LVIS's validation set uses.

    Images are named by `coco_url`. Categories have spaces for underscores.
    """

    def _category(self, name: str) -> str:
        return name.strip().replace("_", " ")

    def _record(self, entry: Any, seen: set[int]) -> ImageRecord | None:
        url = entry.get("coco_url") if isinstance(entry, dict) else None
        if isinstance(url, str):
            entry = {**entry, "file_name": str(PurePosixPath(*PurePosixPath(url).parts[-2:]))}
        return super()._record(entry, seen)
