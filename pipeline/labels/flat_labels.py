"""Flattens the labels of a run for analysis: one row per scored label, with its names, boxes, caption and words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from pipeline.labels.kept_labels import choice_of, judged_labels
from pipeline.labels.label_funnel import candidates, images_with_boxes, require_same_boxes
from pipeline.labels.label_overrides import overrides_of
from storage.artifact import Artifact
from storage.runs import Run
from tagger.english.predicates import canonical
from tagger.labelling.label_choice import Judged

_BOX = ("category", "x", "y", "w", "h")
LABELS = pa.schema(
    [
        ("dataset", pa.string()),
        ("image_id", pa.int64()),
        ("file_name", pa.string()),
        *((f"subject_{name}", pa.string() if name == "category" else pa.float32()) for name in _BOX),
        ("predicate", pa.string()),
        *((f"object_{name}", pa.string() if name == "category" else pa.float32()) for name in _BOX),
        ("score", pa.float32()),
        ("kept", pa.bool_()),
        ("reason", pa.string()),
        ("confidence", pa.float32()),
        ("caption", pa.string()),
        ("words", pa.string()),
    ]
)
"""`predicate` is canonical. Boxes: absolute pixels, top-left corner and size. `kept`: whether the run's shards keep the
label, and with which `confidence` (null if not), or the `reason` why not. `caption` and `words` (subject,
predicate, object as written) are null where the run has no triplet for the label."""


def flat_labels(run: Run) -> Iterator[pa.Table]:
    """Yields the labels of each partition that was ingested and tagged, in the schema `LABELS`, best first in an image.

    Raises `FatalError` when images were ingested, or their boxes detected, again after they were tagged.
    """
    images = images_with_boxes(run)
    captions, triplets = (run.artifacts(step) for step in ("caption", "parse"))
    choice, settled = choice_of(run), overrides_of(run)
    for partition, tagged in sorted(run.artifacts("tag").items()):
        if partition not in images:
            continue
        require_same_boxes(images[partition], tagged)
        rows = {row["image_id"]: row for row in images[partition].table("images").to_pylist()}
        texts = _items(captions.get(partition), "captions")
        parsed = _items(triplets.get(partition), "triplets")
        relations = tagged.table("relations")
        judged = {} if choice is None else judged_labels(relations, candidates(tagged), choice, settled.get(partition))
        found: list[dict[str, Any]] = []
        for row in relations.to_pylist():
            image_id, labels = row["image_id"], row["relations"]
            verdicts = judged.get(image_id, [Judged(label["score"]) for label in labels])
            for label, verdict in sorted(zip(labels, verdicts, strict=True), key=lambda pair: -pair[0]["score"]):
                words = _at(parsed.get(image_id, []), label["triplet"])
                caption = _at(texts.get(image_id, []), words["caption"]) if words else None
                found.append(_row(rows[image_id], label, verdict, words, caption))
        yield pa.Table.from_pylist(found, schema=LABELS)


def _row(
    image: Mapping[str, Any],
    label: Mapping[str, Any],
    verdict: Judged,
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
        "kept": verdict.reason is None,
        "reason": verdict.reason,
        "confidence": verdict.confidence if verdict.reason is None else None,
        "caption": None if caption is None else caption["text"],
        "words": None if words is None else f"{words['subject']}, {words['predicate']}, {words['object']}",
    }


def _items(artifact: Artifact | None, table: str) -> dict[int, list[dict[str, Any]]]:
    """Image id → its items in a table."""
    if artifact is None:
        return {}
    return {row["image_id"]: row[table] or [] for row in artifact.table(table).to_pylist()}


def _at(items: list[dict[str, Any]], place: int) -> dict[str, Any] | None:
    return items[place] if 0 <= place < len(items) else None
