"""Reads COCO panoptic (Kirillov et al. 2019): COCO's layout, whose annotations list the segments of an image."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pipeline.data.datasets.coco import CocoReader


class CocoPanopticReader(CocoReader):
    """Yields the boxes of all segments, of things and of stuff ("sky-other-merged"). Their masks are not read."""

    def entries(self) -> Iterator[tuple[str, Any]]:
        """Yields an annotation for each segment. Ids of segments are unique within their image."""
        for name, entry in super().entries():
            segments = entry.get("segments_info") if name == "annotations" and isinstance(entry, dict) else None
            if isinstance(segments, list) and all(isinstance(each, dict) for each in segments):
                common = {"image_id": entry.get("image_id"), "pan_seg_file_name": entry.get("file_name")}
                yield from ((name, {**each, **common, "segments_info": each}) for each in segments)
            else:
                yield name, entry
