"""Reads COCO panoptic (Kirillov et al. 2019): COCO's layout, whose annotations list the segments of an image."""

from __future__ import annotations

from typing import Any

from pipeline.data.datasets.annotations import NO_IMAGE, as_id, shown
from pipeline.data.datasets.coco import CocoReader
from pipeline.data.datasets.spill import Spill
from pipeline.runtime.stage import Rejected


class CocoPanopticReader(CocoReader):
    """Yields the boxes of all segments, of things and of stuff ("sky-other-merged"). Their masks are not read."""

    def _spill_box(self, boxes: Spill, entry: Any) -> None:
        segments = entry.get("segments_info") if isinstance(entry, dict) else None
        if not isinstance(segments, list) or not all(isinstance(each, dict) for each in segments):
            image_id = as_id(entry.get("image_id")) if isinstance(entry, dict) else None
            lost = NO_IMAGE if image_id is None else image_id
            self.rejects.append(Rejected(lost, "objects malformed", shown(entry)))
            return
        for segment in segments:
            super()._spill_box(boxes, {**segment, "image_id": entry.get("image_id")})
