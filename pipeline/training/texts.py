"""The label texts of a step: the names in its images, filled up with others of the training set (spec 4.5)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.training.sample import TrainingSample, mirrored_predicate
from storage.atomic import write_atomic

NO_OBJECTS = "no objects"
"""The text that stands for the absence of an object; always the last of the object texts."""


@dataclass(frozen=True)
class Names:
    """Label names and how often the training set has each, the most frequent first."""

    names: tuple[str, ...]
    counts: tuple[int, ...]

    @classmethod
    def of(cls, counts: Counter[str]) -> Names:
        """From counts; ties in alphabetical order."""
        ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        return cls(tuple(name for name, _ in ranked), tuple(count for _, count in ranked))

    def draw(self, present: Iterable[str], budget: int, generator: np.random.Generator) -> list[str]:
        """All names when they fit the budget; else those present (however many) and others, drawn by frequency."""
        if len(self.names) <= budget:
            return list(self.names)
        here = sorted(set(present))
        places = {name: place for place, name in enumerate(self.names)}
        weights = np.asarray(self.counts, dtype=np.float64)
        weights[[places[name] for name in here]] = 0
        missing = max(0, min(budget - len(here), int((weights > 0).sum())))
        drawn: list[int] = []
        if missing:
            drawn = generator.choice(len(self.names), missing, replace=False, p=weights / weights.sum()).tolist()
        return here + [self.names[place] for place in sorted(drawn)]


@dataclass(frozen=True)
class Vocabulary:
    """The object and predicate names of a training set."""

    objects: Names
    predicates: Names

    @classmethod
    def of(cls, samples: Iterable[TrainingSample]) -> Vocabulary:
        """Count the names of all samples; a predicate that mirroring changes counts for its mirror image too."""
        objects: Counter[str] = Counter()
        predicates: Counter[str] = Counter()
        for sample in samples:
            objects.update(box.category for box in sample.boxes)
            predicates.update(relation.predicate for relation in sample.relations)
        for name, count in list(predicates.items()):
            if mirrored_predicate(name) != name:
                predicates[mirrored_predicate(name)] += count
        return cls(Names.of(objects), Names.of(predicates))

    def save(self, path: Path, **facts: Any) -> None:
        """Write as JSON: ordered names with counts, and whatever else readers of the weights need."""
        values = {
            "objects": self.objects.names,
            "predicates": self.predicates.names,
            "object_counts": self.objects.counts,
            "predicate_counts": self.predicates.counts,
        }
        write_atomic(path, json.dumps(values | facts, indent=1).encode())

    @classmethod
    def load(cls, path: Path) -> Vocabulary:
        """The inverse of `save`."""
        values = json.loads(path.read_bytes())
        kinds = (("objects", "object_counts"), ("predicates", "predicate_counts"))
        return cls(*(Names(tuple(values[names]), tuple(values[counts])) for names, counts in kinds))


def numbered(names: Sequence[str]) -> dict[str, int]:
    """Name → its place."""
    return {name: place for place, name in enumerate(names)}
