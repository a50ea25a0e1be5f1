"""Settings of the checks that hold back single partitions."""

from __future__ import annotations

from pipeline.runtime.settings import Settings, runtime


class CheckSettings(Settings):
    """What each partition must satisfy before a stage may read it (docs/operations.md, Checks of partitions). Other
    limits recompute nothing.
    """

    min_rows: int = runtime(0, ge=0)
    """Rows that each stage must yield; 0 turns the check off."""
    max_reject_share: float = runtime(1.0, ge=0, le=1)
    """Largest share of its rows that a stage may reject; 1 turns the check off."""
    min_relations_per_image: float = runtime(0.0, ge=0)
    """Scored relations that stage `tag` must yield per image; 0 turns the check off."""
    min_average_precision: float = runtime(0.0, ge=0, le=1)
    """Average precision of the labels of stage `tag` against the ground truth. A partition without ground truth
    that a candidate has is not judged. 0 turns the check off."""
    max_unreachable_share: float = runtime(1.0, ge=0, le=1)
    """Largest share of the ground-truth predicates that no candidate of stage `tag` has; 1 turns the check off."""
