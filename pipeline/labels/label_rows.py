"""The labels of a run one by one: as rows for analysis, and as the relations that reviewers judge."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from pipeline.labels.kept_labels import ChoiceSettings, Judged, choice_of, choice_or_all, judged_artifact, ranked_labels
from pipeline.labels.label_overrides import overrides_of
from pipeline.labels.labelled_partitions import candidates, opinions, tagged_partitions
from pipeline.labels.verdicts import JudgedRelation, box4
from storage.artifact import Artifact
from storage.errors import FatalError
from storage.runs import Run
from storage.tables import FLAG, FLOAT, LONG, TEXT
from tagger.english.predicates import canonical

_BOX = {"category": TEXT, **dict.fromkeys("xywh", FLOAT)}

LABELS = pa.schema({
    "dataset": TEXT, "image_id": LONG, "file_name": TEXT,
    **{f"subject_{name}": kind for name, kind in _BOX.items()},
    "predicate": TEXT,
    **{f"object_{name}": kind for name, kind in _BOX.items()},
    "score": FLOAT, "kept": FLAG, "reason": TEXT, "confidence": FLOAT, "caption": TEXT, "words": TEXT,
})  # fmt: skip
"""`predicate` is canonical. Boxes: absolute pixels, top-left corner and size. `score`: null for a label that reviewers
added. `kept`: whether the run's shards keep the label, and with which `confidence` (null if not kept), or the `reason`
why not. `caption` and `words` (subject, predicate, object as written) are null if the run has no triplet for the label,
or made captions or triplets again."""


def flat_labels(run: Run) -> Iterator[pa.Table]:
    """Yields the labels of each ingested and tagged partition, in schema `LABELS`, by descending score within an image.

    Raises `FatalError` if images were ingested, or their boxes detected, again after tagging.
    """
    choice, settled = choice_of(run), overrides_of(run)
    for found, images, tagged in tagged_partitions(run):
        rows = {row["image_id"]: row for row in images.table("images").to_pylist()}
        captioned, parsed = found.label_sources()
        texts, triplets = _items(captioned, "captions"), _items(parsed, "triplets")
        flat: list[dict[str, Any]] = []
        every = ranked_labels(tagged.table("relations"), candidates(tagged), choice, settled.get(found.name))
        for image_id, labels in every:
            for label, judged in labels:
                words, caption = stated_by(label, triplets.get(image_id, []), texts.get(image_id, []))
                flat.append(_row(rows[image_id], label, judged, words, caption))
        yield pa.Table.from_pylist(flat, schema=LABELS)


def _row(
    image: Mapping[str, Any],
    label: Mapping[str, Any],
    judged: Judged,
    words: Mapping[str, Any] | None,
    caption: Mapping[str, Any] | None,
) -> dict[str, Any]:
    ends = {f"{role}_{name}": image["boxes"][label[role]][name] for role in ("subject", "object") for name in _BOX}
    return {
        "dataset": image["dataset"],
        "image_id": image["image_id"],
        "file_name": image["uri"],
        **ends,
        "predicate": canonical(label["predicate"]),
        "score": label["score"],
        "kept": judged.reason is None,
        "reason": judged.reason,
        "confidence": judged.confidence if judged.reason is None else None,
        "caption": None if caption is None else caption["text"],
        "words": None if words is None else f"{words['subject']}, {words['predicate']}, {words['object']}",
    }


def _items(artifact: Artifact | None, table: str) -> dict[int, list[dict[str, Any]]]:
    """Image id → its items in a table; empty without an artifact."""
    if artifact is None:
        return {}
    return {row["image_id"]: row[table] or [] for row in artifact.table(table).to_pylist()}


def stated_by(
    label: Mapping[str, Any], triplets: Sequence[dict[str, Any]], captions: Sequence[dict[str, Any]]
) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """The triplet that a label comes from, and its caption, of those of the image; None where there is none."""
    words = triplets[label["triplet"]] if 0 <= label["triplet"] < len(triplets) else None
    place = -1 if words is None else words["caption"]
    return words, captions[place] if 0 <= place < len(captions) else None


NO_THRESHOLD = {"threshold": 0.0, "thresholds": {}}
NO_DIGEST = "verdicts identify images by digest, which imported images lack; judge the run of a recipe"
"""Why labels of imported images take no verdict."""


class ReviewableLabel(NamedTuple):
    """A label of a run. `subject` and `object` are indices into the image's boxes."""

    relation: JudgedRelation
    confidence: float
    dataset: str
    image_id: int
    subject: int
    object: int
    opinion: float | None
    """The probability that it holds, by the run's verifier; None if that has not judged it."""


def reviewable_labels(
    run: Run, all_scores: bool = False, choice: ChoiceSettings | None = None
) -> Iterator[ReviewableLabel]:
    """Yields the labels that a run's settings keep, in stored order; with `all_scores`, also those below the threshold.

    `choice` replaces the settings of the run.

    Overrides by reviewers are not applied, as their verdicts measure how good the unchanged labels are. Raises
    `FatalError` for a run without labels, for labels of imported images, and for boxes recomputed after the labels.
    """
    choice = choice or choice_or_all(run)
    if all_scores:
        choice = choice.model_copy(update=NO_THRESHOLD)
    if not run.artifacts("tag"):
        raise FatalError(f"run {run.name!r} has no artifacts of step 'tag': there are no labels to judge")
    for found, images, tagged in tagged_partitions(run):
        kept = judged_artifact(tagged, choice).kept()
        said = opinions(found.verified, tagged)
        for row in images.table("images").to_pylist():
            boxes = row["boxes"]
            if kept.get(row["image_id"]) and not row["digest"]:
                raise FatalError(f"run {run.name!r}: {NO_DIGEST}")
            for label in kept.get(row["image_id"], ()):
                ends = label.subject, label.object
                relation = JudgedRelation(row["digest"], box4(boxes[ends[0]]), box4(boxes[ends[1]]), label.predicate)
                opinion = said.get((row["image_id"], *ends, label.predicate))
                yield ReviewableLabel(relation, label.confidence, row["dataset"], row["image_id"], *ends, opinion)
