"""Overrides by the reviewers' verdicts: labels that hold or not, by indices of their image's boxes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import TypeVar

import pyarrow as pa

from pipeline.labels.labelled_partitions import images_with_boxes, is_made_from, packed_labels
from pipeline.labels.verdict_log import VerdictLog
from pipeline.labels.verdicts import Box4, JudgedRelation, StandingVerdicts, Verdict, box4, deciding
from pipeline.runtime.logs import log
from storage.artifact import Artifact
from storage.digests import digest_json
from storage.errors import FatalError
from storage.runs import Run
from storage.tables import FLAG, INT, LONG, TEXT
from tagger.english.predicates import canonical

OVERRIDES_FILE = "overrides.parquet"
"""File with the overrides that an artifact of stage `shard` applied."""

OVERRIDES = pa.schema({"image_id": LONG, "subject": INT, "predicate": TEXT, "object": INT, "holds": FLAG})

Value = TypeVar("Value")
Named = tuple[int, int, str]
"""Subject, object and canonical predicate. Subject and object index the image's boxes."""


@dataclass(frozen=True)
class ImageOverrides:
    """The labels of one image that hold or do not hold, regardless of confidence."""

    right: frozenset[Named] = frozenset()
    wrong: frozenset[Named] = frozenset()


Overrides = Mapping[int, ImageOverrides]
"""Image id → its overrides; images without any are absent."""


def place_overrides(verdicts: SettledVerdicts, images: pa.Table, relations: pa.Table) -> tuple[Overrides, int]:
    """Finds the boxes of settled verdicts on a partition's images, and counts verdicts whose boxes are not there.

    If several boxes coincide, a wrong label refers to all of them, and a right label to those with a scored label or,
    without any, to the first of the boxes.
    """
    scored: dict[int, set[Named]] = {
        row["image_id"]: {(r["subject"], r["object"], canonical(r["predicate"])) for r in row["relations"]}
        for row in relations.to_pylist()
    }
    found: dict[int, ImageOverrides] = {}
    unplaced = 0
    for row in images.to_pylist():
        sides = verdicts.right.get(row["digest"], frozenset()), verdicts.wrong.get(row["digest"], frozenset())
        if not any(sides):
            continue
        places: dict[Box4, list[int]] = {}
        for number, box in enumerate(row["boxes"]):
            places.setdefault(box4(box), []).append(number)
        known = scored.get(row["image_id"], set())
        holding, failing = (_named(side, places) for side in sides)
        right = {one for named in holding for one in [each for each in named if each in known] or named[:1]}
        wrong = {one for named in failing for one in named}
        unplaced += sum(not named for named in holding + failing)
        if right or wrong:
            found[row["image_id"]] = ImageOverrides(frozenset(right), frozenset(wrong))
    return found, unplaced


def overrides_table(overrides: Overrides) -> pa.Table:
    """The overrides as a table (schema `OVERRIDES`), in a fixed order."""
    rows = [
        {"image_id": image_id, "subject": subject, "predicate": predicate, "object": object_, "holds": holds}
        for image_id, of_image in sorted(overrides.items())
        for holds, side in ((True, of_image.right), (False, of_image.wrong))
        for subject, object_, predicate in sorted(side)
    ]
    return pa.Table.from_pylist(rows, schema=OVERRIDES)


def overrides_of(run: Run) -> Mapping[str, Overrides]:
    """Partition → the overrides applied to the pseudo-labels in a run's shards; empty without any.

    Shards of earlier images are left out: the indices of their boxes may mean other boxes by now.
    """
    images = images_with_boxes(run)
    return {
        name: _recorded(shard)
        for name, shard in packed_labels(run).items()
        if OVERRIDES_FILE in shard.manifest.files
        and (name not in images or is_made_from(shard, "images", images[name]))
    }


def _recorded(artifact: Artifact) -> Overrides:
    sides: dict[int, tuple[set[Named], set[Named]]] = {}
    for row in artifact.table("overrides").to_pylist():
        named = row["subject"], row["object"], row["predicate"]
        sides.setdefault(row["image_id"], (set(), set()))[0 if row["holds"] else 1].add(named)
    return {image_id: ImageOverrides(frozenset(right), frozenset(wrong)) for image_id, (right, wrong) in sides.items()}


def _named(relations: Iterable[JudgedRelation], places: Mapping[Box4, list[int]]) -> list[list[Named]]:
    """For each relation, the labels that it may refer to. Boxes may coincide, but none is related to itself."""
    return [
        [
            (s, o, each.predicate)
            for s, o in product(places.get(each.subject, ()), places.get(each.object, ()))
            if s != o
        ]
        for each in sorted(relations, key=lambda r: (r.subject, r.object, r.predicate))
    ]


WRONG_KINDS = ("reject", "wrong_pair", "wrong_predicate")


@dataclass(frozen=True)
class SettledVerdicts:
    """Relations that hold and relations that do not, by their image's digest."""

    right: Mapping[str, Set[JudgedRelation]] = field(default_factory=dict)
    wrong: Mapping[str, Set[JudgedRelation]] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """The verdicts' part of a key. Who gave them, when and how often makes no difference."""
        sides = {"right": self.right, "wrong": self.wrong}
        listed = {
            side: sorted([r.image, r.subject, r.object, r.predicate] for found in by_image.values() for r in found)
            for side, by_image in sides.items()
        }
        return digest_json(listed)

    @classmethod
    def read(cls, folder: Path) -> SettledVerdicts:
        """Reads a folder of verdicts. Raises `FatalError` if it is missing; damaged lines are logged and skipped."""
        if not folder.is_dir():
            raise FatalError(f"no folder of verdicts at {folder}; name the one that `rlip verdicts show` summarises")
        verdicts = VerdictLog(folder)
        standing = verdicts.standing()
        for text in verdicts.damaged:
            log.warning("verdict skipped", extra={"fields": {"reason": text}})
        return settled(standing)


def settled(standing: StandingVerdicts) -> SettledVerdicts:
    """Settles relations by adjudication or, without any, by majority. A tie settles nothing.

    A corrected relation also holds if it is the most frequent correction of the label and has no verdict of its own.
    """
    right: dict[str, set[JudgedRelation]] = defaultdict(set)
    wrong: dict[str, set[JudgedRelation]] = defaultdict(set)
    corrected: set[JudgedRelation] = set()
    for relation, every in standing.items():
        said = deciding(every)
        if (votes := votes_for(said)) > 0:
            right[relation.image].add(relation)
        elif votes < 0:
            wrong[relation.image].add(relation)
            if (found := _correction(said)) is not None:
                corrected.add(found)
    for relation in corrected:
        if relation not in standing:
            right[relation.image].add(relation)
    return SettledVerdicts(right, wrong)


def votes_for(said: Mapping[str, Verdict]) -> int:
    """Number of reviewers who accept a label minus those who call it wrong, in whatever way."""
    kinds = [verdict.kind for verdict in said.values()]
    return kinds.count("accept") - sum(kind in WRONG_KINDS for kind in kinds)


def _correction(said: Mapping[str, Verdict]) -> JudgedRelation | None:
    """The most frequent correction of its kind, if that kind is the most frequent confident answer."""
    kind = _most_frequent(verdict.kind for verdict in said.values() if verdict.kind != "unsure")
    if kind not in ("wrong_pair", "wrong_predicate"):
        return None
    return _most_frequent(verdict.corrected for verdict in said.values() if verdict.kind == kind)


def _most_frequent(values: Iterable[Value]) -> Value | None:
    """The most frequent of one or more values; None on a tie."""
    first, *second = Counter(values).most_common(2)
    return None if second and first[1] == second[0][1] else first[0]
