"""Reads LVIS v1 (Gupta et al. 2019): COCO's layout and images, with 1,203 categories and no file names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pipeline.data.datasets.coco import CocoReader


class LvisReader(CocoReader):
    """Reads LVIS. `images` is the folder with COCO's train2017 and val2017, both of which LVIS's validation set uses.

    Images are named by `coco_url`. Categories have spaces for underscores.
    """

    def category_name(self, name: str) -> str:
        """The name with spaces."""
        return name.strip().replace("_", " ")

    def entries(self) -> Iterator[tuple[str, Any]]:
        """Yields images with a file name."""
        for name, entry in super().entries():
            url = entry.get("coco_url") if name == "images" and isinstance(entry, dict) else None
            yield name, {"file_name": "/".join(url.split("/")[-2:]), **entry} if isinstance(url, str) else entry
