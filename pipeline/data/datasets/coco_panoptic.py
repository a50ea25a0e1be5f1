"""Reads COCO panoptic (Kirillov et al. 2019): COCO's layout, whose annotations list the segments of an image."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.data.datasets.annotations import is_inside
from pipeline.data.datasets.coco import CocoReader
from pipeline.data.images.opening import BadImage, read_image
from pipeline.data.images.refs import ImageFolder


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


def segment_ids(folder: ImageFolder, name: str) -> NDArray[np.int64]:
    """The id of the segment of each pixel (height × width), R + 256 G + 256² B of a PNG. Raises `BadImage`."""
    if not is_inside(name):
        raise BadImage("file name not usable", name)
    ids: NDArray[np.int64] = np.asarray(read_image(folder.place(name))).astype(np.int64) @ np.array([1, 256, 256**2])
    return ids
