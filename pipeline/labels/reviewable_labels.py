"""The labels of a run that people can judge, each named by its content and with the confidence that decides about it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from pipeline.labels.kept_labels import ChoiceSettings, choice_or_all, kept_labels
from pipeline.labels.label_funnel import candidates, images_with_boxes, require_same_boxes
from pipeline.labels.verdicts import JudgedRelation, box4
from storage.errors import FatalError
from storage.runs import Run

NO_THRESHOLD = {"threshold": 0.0, "thresholds": {}}


class ReviewableLabel(NamedTuple):
    """A label of a run. `subject` and `object` are indices into the image's boxes."""

    relation: JudgedRelation
    confidence: float
    dataset: str
    image_id: int
    subject: int
    object: int
    subject_category: str
    object_category: str


def reviewable_labels(
    run: Run, all_scores: bool = False, choice: ChoiceSettings | None = None
) -> Iterator[ReviewableLabel]:
    """Yields the labels that a run's settings keep, in stored order, or with `all_scores` those below the threshold too.

    `choice` replaces the settings of the run.

    What reviewers have settled is not applied: their verdicts tell how good the labels are that they were asked about. Raises
    `FatalError` for a run without labels, and for boxes that were made again after the labels.
    """
    choice = choice or choice_or_all(run)
    if all_scores:
        choice = choice.model_copy(update=NO_THRESHOLD)
    images, tagged = images_with_boxes(run), run.artifacts("tag")
    if not tagged:
        raise FatalError(f"run {run.name!r} has no artifacts of step 'tag': there are no labels to judge")
    for partition, artifact in sorted(tagged.items()):
        if partition not in images:
            continue
        require_same_boxes(images[partition], artifact)
        kept = kept_labels(artifact.table("relations"), candidates(artifact), choice)
        for row in images[partition].table("images").to_pylist():
            boxes = row["boxes"]
            for label in kept.get(row["image_id"], ()):
                ends = boxes[label.subject], boxes[label.object]
                yield ReviewableLabel(
                    JudgedRelation(row["digest"], box4(ends[0]), box4(ends[1]), label.predicate),
                    label.confidence,
                    row["dataset"],
                    row["image_id"],
                    label.subject,
                    label.object,
                    ends[0]["category"],
                    ends[1]["category"],
                )
