"""Counts the funnel from images to kept labels with every loss, and how often each predicate is kept.

Counts add up: those of a run are the sums of its partitions' counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.labels.flat_list import FlatList
from pipeline.labels.kept_labels import JudgedLabels
from pipeline.labels.labelled_partitions import CANDIDATES_FILE, LabelledPartition, candidates, dropped, is_made_from
from storage.artifact import Artifact
from tagger.english.predicates import canonical

LEVELS = ("images", "captions", "triplets", "candidates", "scored")
"""The funnel's levels with losses before the next level, in order."""
_KEPT, _GIVEN = "kept", "given"
"""Levels counted by predicate instead of by reason of loss."""
REPEATED = "also proposed by another mention"
BELOW_FLOOR = "scored below tag.floor"


@dataclass(frozen=True)
class LabelFunnel:
    """Counts over the labelled datasets; None for stages that the run has not reached.

    Each level adds up: `images`, `captions` and `triplets` minus their losses are the items that led to the next level
    (`grounded` triplets to candidates), `candidates` minus losses plus `unproposed` are `scored`, and `scored` minus
    losses plus `added` are `kept`.
    """

    images: int | None = None
    captions: int | None = None
    triplets: int | None = None
    grounded: int | None = None
    """Triplets that led to candidates; also None if the tagger's version did not record the fate of triplets."""
    candidates: int | None = None
    """Proposals of a predicate for a pair of boxes; also None for imported labels without candidates."""
    unproposed: int | None = None
    """Scored labels that are no candidates: nothing proposes their predicate for their pair."""
    scored: int | None = None
    """Labels with a score."""
    added: int | None = None
    """Labels that reviewers added and the tagger has not scored."""
    kept: int | None = None
    """Labels that stage `shard` keeps."""
    lost: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Level → reason → number of its items lost, most frequent reason first."""

    def levels(self) -> list[tuple[str, int]]:
        """The levels that the run has reached, from images to kept labels, with their counts."""
        names = ("images", "captions", "triplets", "grounded", "candidates", "scored", "kept")
        return [(name, count) for name in names if (count := getattr(self, name)) is not None]


@dataclass(frozen=True)
class PredicateCount:
    """How often a canonical predicate was kept, and how often it is in the ground truth."""

    predicate: str
    kept: int
    given: int


class LabelTally(Counter[tuple[str, str | None]]):
    """The counts of one or more partitions: of (level, None), and of (level, reason) its losses.

    For `kept` and `given`, labels by predicate. A level that no partition has reached is absent, not 0. `unexplained`
    counts partitions whose tagger's version did not record the fate of triplets.
    """

    def _parts(self, level: str) -> dict[str, int]:
        return {name: number for (of, name), number in self.items() if of == level and name is not None}

    def funnel(self) -> LabelFunnel:
        """The funnel of the counts. A level's losses are known once any partition has reached the next level."""
        there = {level: number for (level, name), number in self.items() if name is None}
        explained = "scored" in there and not there.get("unexplained")
        known = {"images": "captions" in there, "captions": "triplets" in there, "triplets": explained}
        lost = {level: self._parts(level) for level in LEVELS if known.get(level, True)}
        triplets = there.get("triplets")
        dropped = sum(lost.get("triplets", {}).values())
        return LabelFunnel(
            **{name: there.get(name) for name in (*LEVELS, "added", "kept")},
            grounded=triplets - dropped if explained and triplets is not None else None,
            unproposed=there.get("unproposed") if "candidates" in there else None,
            lost={level: found for level, reasons in lost.items() if (found := most_frequent_first(reasons))},
        )

    def predicates(self) -> tuple[PredicateCount, ...]:
        """The canonical predicates of kept or ground-truth relations, most kept labels first."""
        totals: dict[str, list[int]] = {}
        for place, level in enumerate((_KEPT, _GIVEN)):
            for predicate, count in self._parts(level).items():
                totals.setdefault(canonical(predicate), [0, 0])[place] += count
        ranked = sorted(totals.items(), key=lambda item: (-item[1][0], -item[1][1], item[0]))
        return tuple(PredicateCount(predicate, *counts) for predicate, counts in ranked)


def most_frequent_first(counts: Mapping[str, int]) -> dict[str, int]:
    """Counts of names in a fixed order, without zeros."""
    return dict(sorted(((name, n) for name, n in counts.items() if n), key=lambda each: (-each[1], each[0])))


def label_tally(found: LabelledPartition, judged: JudgedLabels | None) -> LabelTally:
    """Counts the labels of one partition; `judged`: None if it is not tagged."""
    if judged is None:
        return partition_tally(found, (), ())
    predicates = FlatList.of(judged.relations, "relations").values("predicate")
    return partition_tally(found, predicates, judged.reason.to_pylist(), int(judged.is_added.sum()))


def partition_tally(
    found: LabelledPartition, predicates: Sequence[str], reasons: Sequence[str | None], added: int = 0
) -> LabelTally:
    """Counts the labels of one partition by their predicates, and the `reasons` why they are not kept; None if kept.

    `added`: how many of them reviewers added.
    """
    captioned, parsed, tagged = found.captioned, found.parsed, found.tagged
    numbers: dict[str, int] = {}
    parts: dict[str, Counter[str]] = {}
    if found.images is not None:
        table = found.images.table("images")
        numbers["images"] = found.images.manifest.counts.rows_out
        parts[_GIVEN] = Counter(FlatList.of(table, "relations").values("predicate"))
        parts["images"] = _uncaptioned(table, captioned)
    if captioned is not None:
        numbers["captions"] = len(FlatList.of(captioned.table("captions"), "captions"))
        parts["captions"] = _silent(captioned, parsed)
    if parsed is not None:
        numbers["triplets"] = len(FlatList.of(parsed.table("triplets"), "triplets"))
        parts["triplets"] = _ungrounded(parsed, tagged)
    if tagged is not None:
        scored, proposed = _named(tagged.table("relations"), "relations"), _named(candidates(tagged), "pairs")
        pairs, labels = set(proposed), set(scored)
        if CANDIDATES_FILE in tagged.manifest.files:
            numbers["candidates"] = len(proposed)
            parts["candidates"] = Counter({REPEATED: len(proposed) - len(pairs), BELOW_FLOOR: len(pairs - labels)})
        kept = Counter(name for name, reason in zip(predicates, reasons, strict=True) if reason is None)
        numbers |= {"scored": len(scored), "unproposed": len(labels - pairs), "added": added, "kept": kept.total()}
        numbers["unexplained"] = int(dropped(tagged) is None)
        parts["scored"] = Counter(reason for reason in reasons if reason is not None)
        parts[_KEPT] = Counter()
        for predicate, number in kept.items():
            parts[_KEPT][canonical(predicate)] += number
    tally = LabelTally({(level, None): number for level, number in numbers.items()})
    tally.update({(level, name): number for level, counts in parts.items() for name, number in counts.items()})
    return tally


def _named(table: pa.Table, column: str) -> list[tuple[int, int, int, str]]:
    """Image id, boxes and predicate of each label or pair of a nested column."""
    ids = table["image_id"].to_pylist()
    every = FlatList.of(table, column).each("subject", "object", "predicate")
    return [(ids[row], subject, object_, predicate) for row, subject, object_, predicate in every]


def _uncaptioned(images: pa.Table, captioned: Artifact | None) -> Counter[str]:
    """Why images of a partition have no caption, with counts."""
    if captioned is None:
        return Counter({"not captioned yet": len(images)})
    rows = captioned.table("captions")
    lengths = dict(zip(rows["image_id"].to_pylist(), pc.list_value_length(rows["captions"]).to_pylist(), strict=True))
    rejected = {row["image_id"]: row["reason"] for row in captioned.rejected().to_pylist()}
    found: Counter[str] = Counter()
    boxes = pc.list_value_length(images["boxes"]).to_pylist()
    for image_id, number in zip(images["image_id"].to_pylist(), boxes, strict=True):
        if not lengths.get(image_id):
            found["without a box" if not number else rejected.get(image_id, "without a caption")] += 1
    return found


def _silent(captioned: Artifact, parsed: Artifact | None) -> Counter[str]:
    """Why captions of a partition led to no triplet, with counts."""
    number = len(FlatList.of(captioned.table("captions"), "captions"))
    if parsed is None or not is_made_from(parsed, "captions", captioned):
        return Counter({"not parsed yet": number})
    triplets = FlatList.of(parsed.table("triplets"), "triplets")
    speaking = len(set(triplets.each("caption")))
    refused = Counter(parsed.manifest.counts.rejected)
    return refused + Counter({"without a relation": number - speaking - refused.total()})


def _ungrounded(parsed: Artifact, tagged: Artifact | None) -> Counter[str]:
    """Why triplets of a partition led to no candidate, with counts."""
    if tagged is None or not is_made_from(tagged, "triplets", parsed):
        return Counter({"not tagged since they were parsed": len(FlatList.of(parsed.table("triplets"), "triplets"))})
    lost = dropped(tagged)
    return Counter() if lost is None else Counter(lost["reason"].to_pylist())
