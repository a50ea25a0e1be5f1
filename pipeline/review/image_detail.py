"""Everything that a run knows about one image, for the image view: boxes, captions, triplets, labels and losses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

from pipeline.labels.kept_labels import ChoiceSettings, judged_labels
from pipeline.labels.labelled_partitions import LabelledPartition, candidates, items_of_image, of_image, rows_of_image
from pipeline.labels.verdicts import box4
from pipeline.review.index import ReviewIndex
from pipeline.review.labels import Label, labels_of_images
from pipeline.review.partition_rows import PART_BITS
from storage.digests import digest_json
from tagger.english.predicates import canonical

ROLES = ("subject", "predicate", "object")


class Piece(NamedTuple):
    """A stretch of a caption. `marks`: (triplet, role) of each triplet with a word here; usually none or one."""

    text: str
    marks: tuple[tuple[int, str], ...]


def pieces(text: str, caption: int, triplets: Sequence[Mapping[str, Any]]) -> list[Piece]:
    """Splits the text of caption number `caption` into pieces. `triplets`: those of all captions of the image.

    Offsets that do not fit the text mark nothing.
    """
    spans = [
        (row[f"{role}_start"], row[f"{role}_end"], number, role)
        for number, row in enumerate(triplets)
        for role in ROLES
        if row["caption"] == caption and 0 <= row[f"{role}_start"] < row[f"{role}_end"] <= len(text)
    ]
    cuts: Sequence[int] = sorted({0, len(text), *(at for start, end, *_ in spans for at in (start, end))})
    return [
        Piece(text[start:end], tuple((n, role) for first, last, n, role in spans if first <= start and end <= last))
        for start, end in pairwise(cuts)
    ]


_PARTITIONS = 12
"""Partitions whose tables are kept in memory."""


@dataclass(frozen=True)
class ImageDetail:
    """One image of a run. `boxes`: rows of its boxes. `truths`: ground-truth relations, by indices of boxes."""

    number: int
    dataset: str
    image_id: int
    uri: str
    digest: str
    width: int
    height: int
    partition: str
    boxes: Sequence[Mapping[str, Any]]
    captions: Sequence[Mapping[str, Any]]
    """Each with its `pieces`, in which words of triplets are marked."""
    triplets: Sequence[Mapping[str, Any]]
    """Each with `lost`: why it led to no candidate, and the word responsible; None if it led to one."""
    labels: Sequence[Label]
    """Best first."""
    triplet_of: Mapping[int, int]
    """Number of a label → number of the triplet that proposed it."""
    unscored: Sequence[Mapping[str, Any]]
    """Candidate pairs without a recorded score: below the recording floor, or never scored."""
    truths: Sequence[tuple[int, str, int]]
    quarantined: Sequence[Mapping[str, Any]]

    @property
    def content(self) -> str:
        """A digest of the image and its boxes: numbers refer to other images once images are ingested again."""
        return digest_json([self.digest, *map(box4, self.boxes)])[:16]


class ImageDetails:
    """Finds images in the tables of their partitions. Thread-safe."""

    def __init__(self, index: ReviewIndex) -> None:
        self._index = index
        self._partitions = lru_cache(_PARTITIONS)(self._read)

    def find(self, number: int) -> ImageDetail | None:
        """The image with this number in the index; None if there is none."""
        rows = self._index.rows_at("images", "*", "image", [number])
        if not rows:
            return None
        place = rows[0]
        part, image_id = self._partitions(place["part"], self._index.generation), place["image_id"]
        if part is None:
            return None
        captioned, parsed = part.label_sources()
        captions = items_of_image(part.captioned, "captions", image_id)
        triplets = items_of_image(parsed if captioned is part.captioned else None, "triplets", image_id)
        scored = items_of_image(part.tagged, "relations", image_id)
        labels = labels_of_images(self._index, [number])
        dropped = rows_of_image(part.tagged, "dropped", image_id)
        lost = {row["triplet"]: (row["reason"], row["value"]) for row in dropped}
        return ImageDetail(
            number=number,
            **{name: place[name] for name in ("dataset", "image_id", "uri", "digest", "width", "height")},
            partition=part.name,
            boxes=items_of_image(part.images, "images", image_id, "boxes"),
            captions=[{**row, "pieces": pieces(row["text"], at, triplets)} for at, row in enumerate(captions)],
            triplets=[{**row, "lost": lost.get(at)} for at, row in enumerate(triplets)],
            labels=labels,
            triplet_of={
                label.number: scored[label.place]["triplet"]
                for label in labels
                if label.place < len(scored) and (scored[label.place]["triplet"] or 0) >= 0
            },
            unscored=[*_unscored(items_of_image(part.tagged, "candidates", image_id, "pairs"), scored)],
            truths=[
                (r["subject"], canonical(r["predicate"]), r["object"])
                for r in items_of_image(part.images, "images", image_id, "relations")
            ],
            quarantined=self._index.rows(
                "SELECT step, reason, value FROM quarantined WHERE part = $part AND image_id = $image_id",
                {"part": place["part"], "image_id": image_id},
            ),
        )

    def kept(self, number: int, choice: ChoiceSettings) -> dict[int, str | None]:
        """Number of each label of an image → why `choice` would not keep it; None if it would.

        Raises `FatalError` if the labels lack a value that the choice requires.
        """
        labels = labels_of_images(self._index, [number])
        part = self._partitions(number >> PART_BITS, self._index.generation) if labels else None
        if part is None or part.tagged is None:
            return {}
        tables = part.tagged.table("relations"), candidates(part.tagged)
        relations, proposed = (of_image(table, labels[0].image_id) for table in tables)
        judged = judged_labels(relations, proposed, choice)
        reasons = judged.reason.to_pylist()
        return {label.number: reasons[label.place] for label in labels}

    def _read(self, part: int, generation: int) -> LabelledPartition | None:
        """The artifacts of a partition, as long as the generation of the index is this one."""
        found = self._index.partition(part)
        return None if found is None or found.images is None else found.held()


def _unscored(pairs: Sequence[Mapping[str, Any]], scored: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    known = {(one["subject"], one["predicate"], one["object"]) for one in scored}
    for pair in pairs:
        if (label := (pair["subject"], pair["predicate"], pair["object"])) not in known:
            known.add(label)
            yield {**pair, "predicate": canonical(pair["predicate"])}
