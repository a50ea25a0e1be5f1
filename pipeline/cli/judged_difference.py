"""Counts which of the relations that differ between two runs people have judged, and how."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from pipeline.labels.audit_sample import RIGHT, WRONG
from pipeline.labels.labelled_partitions import images_with_boxes
from pipeline.labels.verdict_summary import outcome_of
from pipeline.labels.verdicts import JudgedRelation, StandingVerdicts, box4
from storage.runs import Run

Scores = dict[JudgedRelation, float]


def judged_difference(before: Run, after: Run, standing: StandingVerdicts, least: float) -> dict[str, dict[str, int]]:
    """Kind of difference → what reviewers said → the number of relations; kinds without a verdict are absent.

    Relations are compared by content, so a box that was found again in the same place is the same. Scores that differ by less
    than `least` count as equal.
    """
    digests = {relation.image for relation in standing}
    old, new = _scores(before, after, digests), _scores(after, before, digests)
    ways = {
        "added": new.keys() - old.keys(),
        "lost": old.keys() - new.keys(),
        "re-scored": {each for each in old.keys() & new.keys() if abs(old[each] - new[each]) >= least},
    }
    found = {}
    for way, relations in ways.items():
        counts = Counter(_in_words(outcome_of(standing[each])) for each in relations if each in standing)
        if counts:
            found[way] = dict(counts.most_common())
    return found


def _in_words(outcome: int) -> str:
    return {RIGHT: "right", WRONG: "wrong"}.get(outcome, "unsure")


def _scores(run: Run, other: Run, digests: Collection[str]) -> Scores:
    """The scores of relations in images with verdicts, of the partitions in which two runs differ."""
    found: Scores = {}
    images, equal = images_with_boxes(run), other.artifacts("tag")
    for partition, tagged in run.artifacts("tag").items():
        if partition not in images or tagged == equal.get(partition):
            continue
        rows = {
            row["image_id"]: row for row in images[partition].table("images").to_pylist() if row["digest"] in digests
        }
        for row in tagged.table("relations").to_pylist() if rows else ():
            if row["image_id"] not in rows:
                continue
            image = rows[row["image_id"]]
            boxes = [box4(box) for box in image["boxes"]]
            for label in row["relations"]:
                ends = boxes[label["subject"]], boxes[label["object"]]
                relation = JudgedRelation(image["digest"], *ends, label["predicate"])
                found[relation] = max(label["score"], found.get(relation, 0.0))
    return found
