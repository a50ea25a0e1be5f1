"""Counts of labels that add up over partitions: those of a run are the sum of those of its partitions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from tagger.english.predicates import canonical

LEVELS = ("images", "captions", "triplets", "candidates", "scored")
"""The levels of the funnel that lose something on the way to the next, in order."""
_KEPT, _GIVEN = "kept", "given"
"""Levels that are counted by predicate, not by the reason of a loss."""


@dataclass(frozen=True)
class LabelFunnel:
    """Counts over the labelled datasets; None for stages that the run has not reached.

    Each level adds up: `images`, `captions` and `triplets` without their losses led to something at the next level
    (`grounded` triplets to candidates), `candidates` without losses plus `unproposed` are `scored`, and `scored` without
    losses are `kept`.
    """

    images: int | None = None
    captions: int | None = None
    triplets: int | None = None
    grounded: int | None = None
    """Triplets that led to candidates; None, too, when the tagger's version did not record what became of triplets."""
    candidates: int | None = None
    """Proposals of a predicate for a pair of boxes. None, too, for imported labels without candidates."""
    unproposed: int | None = None
    """Labels with a score that no caption proposes for their pair."""
    scored: int | None = None
    """Labels with a score."""
    kept: int | None = None
    """Labels that stage `shard` keeps."""
    lost: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Level → reason → how many of it led to nothing; the most frequent reason comes first."""

    def levels(self) -> list[tuple[str, int]]:
        """The levels that the run has reached, from images to kept labels, with their counts."""
        counts = {"images": self.images, "captions": self.captions, "triplets": self.triplets}
        counts |= {"grounded": self.grounded, "candidates": self.candidates, "scored": self.scored, "kept": self.kept}
        return [(name, count) for name, count in counts.items() if count is not None]


@dataclass(frozen=True)
class PredicateCount:
    """How often a canonical predicate was kept, and how often the datasets themselves give it."""

    predicate: str
    kept: int
    given: int


@dataclass
class LabelTally:
    """The counts of one partition, or of several that were added up."""

    numbers: Counter[str] = field(default_factory=Counter)
    """Level → how many there are. A level that no partition has reached is absent, not 0. `unexplained` counts partitions
    whose tagger's version did not record what became of triplets."""
    parts: dict[str, Counter[str]] = field(default_factory=dict)
    """Level → reason → losses; of `kept` and `given`: predicate → labels."""

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
        """The sum of such rows."""
        found = cls()
        for level, name, number in rows:
            if name is None:
                found.numbers[level] += number
            else:
                found.parts.setdefault(level, Counter())[name] += number
        return found

    def funnel(self) -> LabelFunnel:
        """The funnel of what was counted. A level's losses are known once any partition has reached the next level."""
        there = self.numbers
        explained = "scored" in there and not there.get("unexplained")
        known = {"images": "captions" in there, "captions": "triplets" in there, "triplets": explained}
        lost = {name: self.parts[name] for name in LEVELS if name in self.parts and known.get(name, True)}
        triplets = there.get("triplets")
        dropped = lost.get("triplets", Counter()).total()
        return LabelFunnel(
            images=there.get("images"),
            captions=there.get("captions"),
            triplets=triplets,
            grounded=triplets - dropped if explained and triplets is not None else None,
            candidates=there.get("candidates"),
            unproposed=there.get("unproposed") if "candidates" in there else None,
            scored=there.get("scored"),
            kept=there.get("kept"),
            lost={level: found for level, reasons in lost.items() if (found := _most_frequent_first(reasons))},
        )

    def predicates(self) -> tuple[PredicateCount, ...]:
        """The canonical predicates that are kept or given, those with the most kept labels first."""
        totals: dict[str, list[int]] = {}
        for place, level in enumerate((_KEPT, _GIVEN)):
            for predicate, count in self.parts.get(level, {}).items():
                totals.setdefault(canonical(predicate), [0, 0])[place] += count
        ranked = sorted(totals.items(), key=lambda item: (-item[1][0], -item[1][1], item[0]))
        return tuple(PredicateCount(predicate, *counts) for predicate, counts in ranked)


def _most_frequent_first(reasons: Counter[str]) -> dict[str, int]:
    return dict(sorted(((r, n) for r, n in reasons.items() if n), key=lambda each: (-each[1], each[0])))
