"""Looks at the boxes of a dataset for signs that they are in another convention than x, y, width and height in pixels."""

from __future__ import annotations

from itertools import islice

from pipeline.data.datasets.record_index import RecordIndex

LOOKED_AT = 1000
"""Number of images whose boxes are looked at."""
DOUBTFUL = 0.2
"""Share of boxes that must fit better as corners. Of boxes in the right convention, few reach beyond their image."""


def box_doubts(dataset: str, index: RecordIndex) -> str:
    """Returns what looks wrong with the boxes of the first images, and what to do about it; "" if nothing does."""
    images = boxes = small = corners = 0
    for record in islice(index, LOOKED_AT):
        images += 1
        for box in record.boxes:
            boxes += 1
            small += box.w < 1 and box.h < 1
            if record.width is not None and record.height is not None:
                beyond = box.x + box.w > record.width + 1 or box.y + box.h > record.height + 1
                corners += beyond and box.x < box.w <= record.width + 1 and box.y < box.h <= record.height + 1
    of = f"dataset {dataset}: {{}} of {boxes} boxes of its first {images} images"
    if not boxes:
        return f"dataset {dataset}: none of its first {images} images has a box; check that the annotations belong to the images"
    if small > boxes / 2:
        return (
            f"{of.format(small)} are smaller than a pixel; if they are relative to the image, multiply them by its size"
        )
    if corners > DOUBTFUL * boxes:
        return (
            f"{of.format(corners)} reach beyond their image and would fit as two corners (x1, y1, x2, y2); "
            "write them as x, y, width, height"
        )
    return ""
