"""The label names of a training set, the choice of a step's label texts, and the tokenizer that reads them.

Names are counted when shards are written, so that a training run need not read the shards to know them.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from filecmp import cmp
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from pipeline.training.sample import TrainingSample, mirrored_predicate
from storage.atomic import write_atomic
from storage.errors import FatalError
from storage.json_files import read_json
from storage.tables import SHARD_STATISTICS

STATISTICS_FILE = "statistics.parquet"


def statistics_of(index: pa.Table, samples: Mapping[str, TrainingSample]) -> pa.Table:
    """Counts the contents of tars, from their index and the samples in them by key (schema `SHARD_STATISTICS`)."""
    counts: Counter[tuple[str, str, str]] = Counter()
    placed = dict(zip(index["key"].to_pylist(), index["shard"].to_pylist(), strict=True))
    for key, sample in samples.items():
        shard = placed[key]
        counts[shard, "total", "images"] += 1
        counts[shard, "total", "images without relations"] += not sample.relations
        counts[shard, "total", "boxes"] += len(sample.boxes)
        counts[shard, "total", "relations"] += len(sample.relations)
        counts.update((shard, "object", box.category) for box in sample.boxes)
        counts.update((shard, "predicate", relation.predicate) for relation in sample.relations)
        counts.update((shard, "surface", relation.surface) for relation in sample.relations)
    rows = [
        {"shard": shard, "kind": kind, "name": name, "count": count}
        for (shard, kind, name), count in sorted(counts.items())
    ]
    return pa.Table.from_pylist(rows, schema=SHARD_STATISTICS)


@dataclass(frozen=True)
class LabelCounts:
    """Label names and their counts in the training set, most frequent first."""

    names: tuple[str, ...]
    counts: tuple[int, ...]

    @classmethod
    def of(cls, counts: Counter[str]) -> LabelCounts:
        """Ranks names by count, ties in alphabetical order."""
        ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        return cls(tuple(name for name, _ in ranked), tuple(count for _, count in ranked))

    def draw(self, present: Iterable[str], budget: int, generator: np.random.Generator) -> list[str]:
        """Returns all names if they fit the budget, otherwise all present ones plus others drawn by frequency."""
        if len(self.names) <= budget:
            return list(self.names)
        here = sorted(set(present))
        places = {name: place for place, name in enumerate(self.names)}
        weights = np.asarray(self.counts, dtype=np.float64)
        # Present names are in the list anyway, so they aren't drawn.
        weights[[places[name] for name in here]] = 0
        missing = max(0, min(budget - len(here), int((weights > 0).sum())))
        drawn: list[int] = []
        if missing:
            drawn = generator.choice(len(self.names), missing, replace=False, p=weights / weights.sum()).tolist()
        return here + [self.names[place] for place in sorted(drawn)]

    def most_frequent(self, present: Iterable[str], budget: int) -> tuple[str, ...]:
        """Returns up to `budget` names in order of frequency: first the most frequent present ones, then others."""
        here = set(present)
        chosen = set(sorted(self.names, key=lambda name: name not in here)[:budget])
        return tuple(name for name in self.names if name in chosen)


@dataclass(frozen=True)
class Vocabulary:
    """The object and predicate names of a training set."""

    objects: LabelCounts
    predicates: LabelCounts

    @classmethod
    def of(cls, statistics: Iterable[pa.Table], predicates_as: Literal["predicate", "surface"]) -> Vocabulary:
        """Sums the counts of shards. A predicate that mirroring changes counts for its mirrored form too."""
        rows = pa.concat_tables(statistics).group_by(["kind", "name"]).aggregate([("count", "sum")]).to_pylist()
        objects, predicates = (
            Counter({row["name"]: row["count_sum"] for row in rows if row["kind"] == kind})
            for kind in ("object", predicates_as)
        )
        for name, count in list(predicates.items()):
            if mirrored_predicate(name) != name:
                predicates[mirrored_predicate(name)] += count
        return cls(LabelCounts.of(objects), LabelCounts.of(predicates))

    def save(self, path: Path, **facts: Any) -> None:
        """Writes JSON: ordered names with counts, and `facts` that readers of the weights need."""
        values = {
            "objects": self.objects.names,
            "predicates": self.predicates.names,
            "object_counts": self.objects.counts,
            "predicate_counts": self.predicates.counts,
        }
        write_atomic(path, json.dumps(values | facts, indent=1).encode())

    @classmethod
    def load(cls, path: Path) -> Vocabulary:
        """Reads a file that `save` wrote."""
        values = json.loads(path.read_bytes())
        kinds = (("objects", "object_counts"), ("predicates", "predicate_counts"))
        return cls(*(LabelCounts(tuple(values[names]), tuple(values[counts])) for names, counts in kinds))


@dataclass(frozen=True)
class TrainedNames:
    """What the vocabulary next to weights says to their users: label names, and the longest side of training images."""

    image_size: Annotated[int, Field(ge=32)]
    objects: tuple[str, ...] = ()
    predicates: tuple[str, ...] = ()

    @classmethod
    def read(cls, path: Path, remedy: str = "copy it again from the folder of the trained weights") -> TrainedNames:
        """Reads a file that anyone may have written. Raises `FatalError` for what `Vocabulary.save` would not write."""
        return read_json(path, cls, remedy)

    def warn_if_boxes_alone(self) -> None:
        """Warns that relations mean nothing if the weights have learned objects and no predicate."""
        if self.objects and not self.predicates:
            warnings.warn("these weights learned boxes alone, so their relations mean nothing", stacklevel=7)


def index_by_name(names: Sequence[str]) -> dict[str, int]:
    """Maps each name to its position."""
    return {name: place for place, name in enumerate(names)}


FILES = ("tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json")
"""The files of a tokenizer folder that are kept with weights."""
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
"""Special tokens in the order of RoBERTa, because their positions are their ids."""


def tokenizer_files(folder: Path) -> dict[str, Path]:
    """Finds the tokenizer files in a folder, by name."""
    return {name: folder / name for name in FILES if (folder / name).is_file()}


def is_tokenizer(files: Mapping[str, Path]) -> bool:
    """Whether these files, by name, include those that a tokenizer needs."""
    return "tokenizer.json" in files or {"vocab.json", "merges.txt"} <= files.keys()


def tokenizer_of(weights: Path, other: Path | None, named: str, setting: str) -> dict[str, Path]:
    """Finds the tokenizer files next to weights, else in another folder, by name.

    Raises `FatalError` that begins with `named`, what the weights are, and names the setting of the other folder.
    """
    for folder in (weights.parent, other):
        if folder is not None and is_tokenizer(files := tokenizer_files(folder)):
            return files
    raise FatalError(
        f"{named}: no tokenizer is next to it (tokenizer.json, or vocab.json and merges.txt); copy the "
        f"files of the one that it was trained with there, or set {setting} to their folder, e.g. of roberta-base"
    )


def copy_tokenizer(source: Path, folder: Path) -> None:
    """Copies the files of a tokenizer. Raises `FatalError` when the folder has none."""
    if not is_tokenizer(files := tokenizer_files(source)):
        raise FatalError(
            f"tokenizer = {source}: needs tokenizer.json, or vocab.json and merges.txt, as roberta-base has"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for name, path in files.items():
        shutil.copyfile(path, folder / name)


def differ(one: Path, other: Path) -> bool:
    """Whether two folders hold tokenizers with other tokens or merges."""
    ours, theirs = tokenizer_files(one), tokenizer_files(other)
    return any(
        not cmp(ours[name], theirs[name], shallow=False) for name in FILES[:3] if name in ours and name in theirs
    )


def make_tokenizer(names: Iterable[str], vocabulary: int, folder: Path) -> None:
    """Writes a byte-level BPE tokenizer in RoBERTa's form, with merges that make the words of the names single tokens.

    `vocabulary`: maximum number of tokens, at least 261.
    """
    from tokenizers import ByteLevelBPETokenizer

    tokenizer = ByteLevelBPETokenizer()
    # A word gets other tokens after a space than at the beginning.
    words = sorted({part for name in names for part in (name, *(f" {word}" for word in name.split(" ")))})
    tokenizer.train_from_iterator(words, vocabulary, min_frequency=1, special_tokens=SPECIAL, show_progress=False)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_model(str(folder))
