"""Reads images of a run together with their captions, labels and ground-truth relations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.labels.kept_labels import ChoiceSettings, KeptLabels, judged_labels
from pipeline.labels.label_overrides import Overrides, overrides_of
from pipeline.labels.labelled_partitions import LabelledPartition, candidates, partition_artifacts
from pipeline.training.sample import SampleRelation
from storage.runs import Run
from tagger.audit.labels import Fact, holds, unordered
from tagger.english.predicates import canonical


class ShownBox(NamedTuple):
    """A box and the name by which relations refer to it. `named`: any shown label or ground-truth relation does so."""

    name: str
    x: float
    y: float
    w: float
    h: float
    named: bool


class ShownRelation(NamedTuple):
    """A label as text. `right`: None if the image has no ground truth."""

    subject: str
    predicate: str
    object: str
    ends: tuple[int, int]
    """Indices of subject and object among the image's boxes."""
    confidence: float | None
    """As the choice of labels weighs it; None below the recording floor."""
    proposed: bool
    right: bool | None


@dataclass(frozen=True)
class SampleImage:
    """One image with everything that the run found in it. `missed`: ground-truth relations that were not kept."""

    row: Mapping[str, Any]
    boxes: tuple[ShownBox, ...]
    captions: tuple[str, ...]
    kept: tuple[ShownRelation, ...]
    dropped: tuple[ShownRelation, ...]
    missed: tuple[ShownRelation, ...]

    @property
    def is_judged(self) -> bool:
        """Whether the image has ground-truth relations to compare labels with."""
        return bool(self.row["relations"])

    @property
    def disagreements(self) -> int:
        """Kept labels that are not in the ground truth, plus ground-truth relations that were not kept."""
        return sum(label.right is False for label in self.kept) + len(self.missed)

    @property
    def doubt(self) -> float:
        """Expected number of wrong decisions if each confidence were the probability that its label holds."""
        wrongly_kept = sum(1 - label.confidence for label in self.kept if label.confidence is not None)
        return wrongly_kept + sum(label.confidence for label in self.dropped if label.confidence is not None)


def read_samples(
    run: Run, datasets: Sequence[str], choice: ChoiceSettings, rows: Mapping[str, Collection[int]] | None = None
) -> Iterator[SampleImage]:
    """Yields images of the labelled datasets, in the order of partitions and rows.

    `rows`: partition → row indices in its table of images; None: every image.
    """
    settled = overrides_of(run)
    for name, found in sorted(partition_artifacts(run, datasets).items()):
        if found.images is not None and (rows is None or name in rows):
            images = found.images.table("images")
            if rows is not None:
                images = images.take(pa.array(sorted(rows[name]), pa.int64()))
            yield from _samples(images, found.fitting(), choice, settled.get(name))


def _samples(
    images: pa.Table, found: LabelledPartition, choice: ChoiceSettings, settled: Overrides | None
) -> Iterator[SampleImage]:
    captions, relations, pairs, ids = {}, {}, {}, images["image_id"]
    chosen: KeptLabels = {}
    if found.captioned is not None:
        captions = _by_id(_of(found.captioned.table("captions"), ids), "captions")
    if found.tagged is not None:
        labels, proposed = _of(found.tagged.table("relations"), ids), _of(candidates(found.tagged), ids)
        judged, pairs = judged_labels(labels, proposed, choice, settled), _by_id(proposed, "pairs")
        chosen = judged.kept()
        for image_id, its in judged.by_image():
            scored = ((label, one) for label, one in its if label["score"] is not None)
            relations[image_id] = [label | {"confidence": one.confidence} for label, one in scored]
    for row in images.to_pylist():
        image_id = row["image_id"]
        texts = [caption["text"] for caption in captions.get(image_id, [])]
        yield _sample(row, texts, relations.get(image_id, []), pairs.get(image_id, []), chosen.get(image_id, ()))


def _sample(
    row: Mapping[str, Any],
    captions: Sequence[str],
    relations: Sequence[Mapping[str, Any]],
    pairs: Sequence[Mapping[str, Any]],
    chosen: Sequence[SampleRelation],
) -> SampleImage:
    # Ground truth may state one relation in several wordings, and hold names without a word.
    truth = {unordered(fact): fact for fact in map(_fact, row["relations"]) if fact[1]}
    names = _names([box["category"] for box in row["boxes"]])

    def shown(fact: Fact, confidence: float | None, proposed: bool) -> ShownRelation:
        subject, predicate, object_ = fact
        right = unordered(fact) in truth if truth else None
        return ShownRelation(names[subject], predicate, names[object_], (subject, object_), confidence, proposed, right)

    ranked = sorted(relations, key=lambda r: (-r["confidence"], r["subject"], r["object"], r["predicate"]))
    labels = {(r.subject, r.predicate, r.object): r.confidence for r in sorted(chosen, key=lambda r: -r.confidence)}
    proposed = {*map(_fact, pairs), *(_fact(r) for r in ranked if r["proposed"])}
    below = [r for r in ranked if _fact(r) not in labels and r["proposed"]]
    recorded = labels.keys() | set(map(_fact, ranked))
    unscored = [p for p in pairs if not holds(_fact(p), recorded)]
    missed = [fact for fact in truth.values() if not holds(fact, labels)]
    stated = (*labels, *map(_fact, (*below, *unscored)), *missed)
    named = {index for subject, _, object_ in stated for index in (subject, object_)}
    return SampleImage(
        row=row,
        boxes=tuple(ShownBox(names[i], b["x"], b["y"], b["w"], b["h"], i in named) for i, b in enumerate(row["boxes"])),
        captions=tuple(captions),
        kept=tuple(shown(fact, confidence, fact in proposed) for fact, confidence in labels.items()),
        dropped=(
            *(shown(_fact(r), r["confidence"], True) for r in below),
            *(shown(_fact(p), None, True) for p in unscored),
        ),
        missed=tuple(shown(fact, None, False) for fact in missed),
    )


def _fact(relation: Mapping[str, Any]) -> Fact:
    return relation["subject"], canonical(relation["predicate"]), relation["object"]


def _names(categories: Sequence[str]) -> list[str]:
    """Names each box by its category, numbered if the category occurs more than once."""
    totals, seen = Counter(categories), Counter[str]()
    names = []
    for category in categories:
        seen[category] += 1
        names.append(f"{category} {seen[category]}" if totals[category] > 1 else category)
    return names


def _of(table: pa.Table, image_ids: pa.ChunkedArray) -> pa.Table:
    return table.filter(pc.is_in(table["image_id"], image_ids.combine_chunks()))


def _by_id(table: pa.Table, column: str) -> dict[int, list[dict[str, Any]]]:
    return {row["image_id"]: row[column] for row in table.to_pylist()}
