"""How much two boxes are the same box."""

from __future__ import annotations

from pipeline.data.datasets.record import Box


def overlap(a: Box, b: Box, pixel: float = 0.0) -> float:
    """Intersection over union; `pixel` = 1 for the convention that a box includes its last pixel."""
    width = min(a.x + a.w, b.x + b.w) - max(a.x, b.x) + pixel
    height = min(a.y + a.h, b.y + b.h) - max(a.y, b.y) + pixel
    if not (width > 0 and height > 0):
        return 0.0
    shared = width * height
    union = (a.w + pixel) * (a.h + pixel) + (b.w + pixel) * (b.h + pixel) - shared
    return shared / union if union > 0 else 0.0
