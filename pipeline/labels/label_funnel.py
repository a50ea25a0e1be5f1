"""Counts the funnel from images to kept labels with every loss, and how often each predicate is kept.

Counts add up: those of a run are the sums of its partitions' counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.labels.flat_list import FlatList
from pipeline.labels.kept_labels import ChoiceSettings, judged_labels
from pipeline.labels.label_overrides import Overrides
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
    """Scored labels that no caption proposes for their pair."""
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


@dataclass
class LabelTally:
    """The counts of one or more partitions."""

    numbers: Counter[str] = field(default_factory=Counter)
    """Level → count. A level that no partition has reached is absent, not 0. `unexplained` counts partitions whose
    tagger's version did not record the fate of triplets."""
    parts: dict[str, Counter[str]] = field(default_factory=dict)
    """Level → reason → losses; for `kept` and `given`: predicate → labels."""

    def add(self, other: LabelTally) -> None:
        """Add the counts of other partitions."""
        self.numbers.update(other.numbers)
        for level, counts in other.parts.items():
            self.parts.setdefault(level, Counter()).update(counts)

    def rows(self) -> Iterator[tuple[str, str | None, int]]:
        """The counts as rows: level, reason or predicate (None for the level itself), number."""
        yield from ((level, None, number) for level, number in self.numbers.items())
        yield from ((level, name, number) for level, counts in self.parts.items() for name, number in counts.items())

    @classmethod
    def of_rows(cls, rows: Iterable[tuple[str, str | None, int]]) -> LabelTally:
        """The sum of rows from `rows`."""
        found = cls()
        for level, name, number in rows:
            if name is None:
                found.numbers[level] += number
            else:
                found.parts.setdefault(level, Counter())[name] += number
        return found

    def funnel(self) -> LabelFunnel:
        """The funnel of the counts. A level's losses are known once any partition has reached the next level."""
        there = self.numbers
        explained = "scored" in there and not there.get("unexplained")
        known = {"images": "captions" in there, "captions": "triplets" in there, "triplets": explained}
        lost = {name: self.parts[name] for name in LEVELS if name in self.parts and known.get(name, True)}
        triplets = there.get("triplets")
        dropped = lost.get("triplets", Counter()).total()
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
            for predicate, count in self.parts.get(level, {}).items():
                totals.setdefault(canonical(predicate), [0, 0])[place] += count
        ranked = sorted(totals.items(), key=lambda item: (-item[1][0], -item[1][1], item[0]))
        return tuple(PredicateCount(predicate, *counts) for predicate, counts in ranked)


def most_frequent_first(counts: Mapping[str, int]) -> dict[str, int]:
    """Counts of names in a fixed order, without zeros."""
    return dict(sorted(((name, n) for name, n in counts.items() if n), key=lambda each: (-each[1], each[0])))


def label_tally(found: LabelledPartition, choice: ChoiceSettings, settled: Overrides | None) -> LabelTally:
    """Counts the labels of one partition."""
    if found.tagged is None:
        return partition_tally(found, ())
    judged = judged_labels(found.tagged.table("relations"), candidates(found.tagged), choice, settled)
    predicates = FlatList.of(judged.relations, "relations").fields.field("predicate")
    reasons, added = judged.reason.filter(pa.array(~judged.is_added)), predicates.filter(pa.array(judged.is_added))
    return partition_tally(found, reasons.to_pylist(), added.to_pylist())


def partition_tally(found: LabelledPartition, judged: Sequence[str | None], added: Sequence[str] = ()) -> LabelTally:
    """Counts the labels of one partition.

    `judged`: why each is not kept, in their order; None if it is. `added`: predicates of labels that reviewers added.
    """
    tally, captioned, parsed, tagged = LabelTally(), found.captioned, found.parsed, found.tagged
    if found.images is not None:
        table = found.images.table("images")
        tally.numbers["images"] = found.images.manifest.counts.rows_out
        tally.parts["given"] = Counter(FlatList.of(table, "relations").values("predicate"))
        tally.parts["images"] = _uncaptioned(table, captioned)
    if captioned is not None:
        tally.numbers["captions"] = len(FlatList.of(captioned.table("captions"), "captions"))
        tally.parts["captions"] = _silent(captioned, parsed)
    if parsed is not None:
        tally.numbers["triplets"] = len(FlatList.of(parsed.table("triplets"), "triplets"))
        tally.parts["triplets"] = _ungrounded(parsed, tagged)
    if tagged is not None:
        _count_labels(tally, tagged, judged, added)
    return tally


def _count_labels(tally: LabelTally, tagged: Artifact, judged: Sequence[str | None], added: Sequence[str]) -> None:
    labels = FlatList.of(tagged.table("relations"), "relations")
    alone = labels.values("proposed").count(False)
    if CANDIDATES_FILE in tagged.manifest.files:
        stated = list(FlatList.of(candidates(tagged), "pairs").each("subject", "object", "predicate"))
        proposed, distinct = len(stated), len(set(stated))
        tally.numbers["candidates"] = proposed
        tally.parts["candidates"] = Counter(
            {REPEATED: proposed - distinct, BELOW_FLOOR: distinct - (len(labels) - alone)}
        )
    kept = Counter(p for p, reason in zip(labels.values("predicate"), judged, strict=True) if reason is None)
    kept.update(added)
    tally.numbers.update(
        scored=len(labels),
        unproposed=alone,
        added=len(added),
        kept=kept.total(),
        unexplained=int(dropped(tagged) is None),
    )
    tally.parts["scored"] = Counter(reason for reason in judged if reason is not None)
    tally.parts["kept"] = Counter()
    for predicate, number in kept.items():
        tally.parts["kept"][canonical(predicate)] += number


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
