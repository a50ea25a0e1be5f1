"""The names of a training set, the label texts of a step, and the tokenizer that reads them."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.training.sample import TrainingSample, mirrored_predicate
from storage.atomic import write_atomic
from storage.errors import FatalError


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


FILES = ("tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json")
"""The files of a tokenizer folder that are kept with weights."""
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
"""In RoBERTa's order: their places are their ids."""


def tokenizer_files(folder: Path) -> dict[str, Path]:
    """The tokenizer's files in a folder, by name."""
    return {name: folder / name for name in FILES if (folder / name).is_file()}


def is_tokenizer(folder: Path) -> bool:
    """Whether a folder holds what a tokenizer is read from."""
    found = tokenizer_files(folder).keys()
    return "tokenizer.json" in found or {"vocab.json", "merges.txt"} <= found


def copy_tokenizer(source: Path, folder: Path) -> None:
    """Copy a tokenizer's files. Raises `FatalError` when the folder has none."""
    if not is_tokenizer(source):
        raise FatalError(
            f"tokenizer = {source}: needs tokenizer.json, or vocab.json and merges.txt, as roberta-base has"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for name, path in tokenizer_files(source).items():
        shutil.copyfile(path, folder / name)


def make_tokenizer(names: Iterable[str], vocabulary: int, folder: Path) -> None:
    """Write a byte-level BPE of RoBERTa's form: all bytes, and merges that make the names' words single tokens.

    `vocabulary`: the most tokens it may have, at least 261.
    """
    from tokenizers import ByteLevelBPETokenizer

    tokenizer = ByteLevelBPETokenizer()
    words = sorted({part for name in names for part in (name, *(f" {word}" for word in name.split(" ")))})
    tokenizer.train_from_iterator(words, vocabulary, min_frequency=1, special_tokens=SPECIAL, show_progress=False)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_model(str(folder))
