"""Selects sample pictures and collects their captions, labels and given relations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa

from pipeline.labels.kept_labels import ChoiceSettings, kept_labels
from pipeline.labels.label_funnel import candidates, labelled_partitions
from pipeline.training.sample import SampleRelation
from storage.artifact import Artifact
from storage.runs import Run
from tagger.audit.labels import SYMMETRIC, Fact
from tagger.english.predicates import canonical

MAX_LISTED = 10
"""Relations of each kind shown for one picture; the report folds the others away."""


class ShownBox(NamedTuple):
    """A box and the name that relations refer to it by.

    `used`: a kept label refers to it; `named`: any shown label or given relation does.
    """

    name: str
    x: float
    y: float
    w: float
    h: float
    used: bool
    named: bool


class ShownRelation(NamedTuple):
    """A label as text. `score` is None below the recording floor, `right` is None without given relations in the image."""

    subject: str
    predicate: str
    object: str
    score: float | None
    proposed: bool
    right: bool | None
    line: tuple[float, float, float, float]
    """x1, y1, x2, y2 in pixels, from the centre of the subject to that of the object."""


@dataclass(frozen=True)
class Sample:
    """One picture of the gallery. `missed` are given relations that were not kept."""

    row: Mapping[str, Any]
    boxes: tuple[ShownBox, ...]
    captions: tuple[str, ...]
    kept: tuple[ShownRelation, ...]
    dropped: tuple[ShownRelation, ...]
    missed: tuple[ShownRelation, ...]
    ambiguous: int
    """Candidate pairs that compete with others for the same mention."""

    @property
    def interest(self) -> int:
        """How much there is to judge: competing pairs, kept and dropped labels (each capped), truth; minus crowding."""
        found = min(self.ambiguous, 6) + min(len(self.kept), 3) + min(len(self.dropped), 3)
        crowded = max(0, len(self.boxes) - 12)
        return found + 3 * bool(self.row["relations"]) - crowded


def choose_samples(run: Run, datasets: Sequence[str], choice: ChoiceSettings, count: int) -> list[Sample]:
    """At most `count` pictures, spread evenly over the partitions: the most interesting one of each stretch."""
    images, captioned, tagged = (labelled_partitions(run, step, datasets) for step in ("ingest", "caption", "tag"))
    partitions = sorted(images)
    every = min(count, len(partitions))
    chosen: list[Sample] = []
    for place in range(every):
        partition = partitions[place * len(partitions) // every]
        found = list(_samples(images[partition], captioned.get(partition), tagged.get(partition), choice))
        share = min(count * (place + 1) // every - count * place // every, len(found))
        stretches = [found[i * len(found) // share : (i + 1) * len(found) // share] for i in range(share)]
        chosen += [max(stretch, key=lambda sample: sample.interest) for stretch in stretches]
    return chosen


def _samples(
    ingested: Artifact, captioned: Artifact | None, tagged: Artifact | None, choice: ChoiceSettings
) -> Iterator[Sample]:
    """Yields the images of a partition that have boxes."""
    captions = _by_id(captioned.table("captions"), "captions") if captioned else {}
    labels, proposed = (tagged.table("relations"), candidates(tagged)) if tagged else (None, None)
    relations = _by_id(labels, "relations") if labels is not None else {}
    pairs = _by_id(proposed, "pairs") if proposed is not None else {}
    chosen = kept_labels(labels, proposed, choice) if labels is not None and proposed is not None else {}
    for row in ingested.table("images").to_pylist():
        image_id = row["image_id"]
        if row["boxes"]:
            texts = [caption["text"] for caption in captions.get(image_id, [])]
            yield _sample(row, texts, relations.get(image_id, []), pairs.get(image_id, []), chosen.get(image_id, ()))


def _sample(
    row: Mapping[str, Any],
    captions: Sequence[str],
    relations: Sequence[Mapping[str, Any]],
    pairs: Sequence[Mapping[str, Any]],
    chosen: Sequence[SampleRelation],
) -> Sample:
    truth = {(r["subject"], canonical(r["predicate"]), r["object"]) for r in row["relations"]}
    names = _names([box["category"] for box in row["boxes"]])

    def shown(relation: Mapping[str, Any], score: float | None, proposed: bool) -> ShownRelation:
        subject, object_ = relation["subject"], relation["object"]
        predicate = canonical(relation["predicate"])
        right = _holds(subject, predicate, object_, truth) if truth else None
        line = (*_centre(row["boxes"][subject]), *_centre(row["boxes"][object_]))
        return ShownRelation(names[subject], predicate, names[object_], score, proposed, right, line)

    ranked = sorted(relations, key=lambda r: (-r["score"], r["subject"], r["object"], r["predicate"]))
    labels = {(r.subject, r.predicate, r.object) for r in chosen}
    kept = [r for r in ranked if _fact(r) in labels]
    below = [r for r in ranked if _fact(r) not in labels and r["proposed"]]
    recorded = set(map(_fact, ranked))
    unscored = [p for p in pairs if not _holds(*_fact(p), recorded)]
    missed = [r for r in row["relations"] if not _holds(*_fact(r), labels)]
    used = {index for r in kept for index in (r["subject"], r["object"])}
    named = used.union(i for r in (*below, *unscored, *missed) for i in (r["subject"], r["object"]))
    return Sample(
        row=row,
        boxes=tuple(
            ShownBox(names[i], b["x"], b["y"], b["w"], b["h"], i in used, i in named)
            for i, b in enumerate(row["boxes"])
        ),
        captions=tuple(captions),
        kept=tuple(shown(r, r["score"], r["proposed"]) for r in kept),
        dropped=(
            *(shown(r, r["score"], True) for r in below),
            *(shown(p, None, True) for p in unscored),
        ),
        missed=tuple(shown(r, None, False) for r in missed),
        ambiguous=sum(pair["ambiguity"] > 1 for pair in pairs),
    )


def _fact(relation: Mapping[str, Any]) -> Fact:
    return relation["subject"], canonical(relation["predicate"]), relation["object"]


def _holds(subject: int, predicate: str, object_: int, relations: set[tuple[int, str, int]]) -> bool:
    if (subject, predicate, object_) in relations:
        return True
    return predicate in SYMMETRIC and (object_, predicate, subject) in relations


def _names(categories: Sequence[str]) -> list[str]:
    """Names each box by its category, numbered where the category occurs more than once."""
    totals, seen = Counter(categories), Counter[str]()
    names = []
    for category in categories:
        seen[category] += 1
        names.append(f"{category} {seen[category]}" if totals[category] > 1 else category)
    return names


def _centre(box: Mapping[str, float]) -> tuple[float, float]:
    return (round(box["x"] + box["w"] / 2, 1), round(box["y"] + box["h"] / 2, 1))


def _by_id(table: pa.Table, column: str) -> dict[int, list[dict[str, Any]]]:
    return {row["image_id"]: row[column] for row in table.to_pylist()}
