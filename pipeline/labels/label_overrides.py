"""Overrides: what reviewers have settled, turned into labels of a partition's images, by indices of their boxes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product

import pyarrow as pa

from pipeline.labels.settled_verdicts import SettledVerdicts
from pipeline.labels.verdicts import Box4, JudgedRelation, box4
from storage.artifact import Artifact
from storage.runs import Run
from tagger.english.predicates import canonical

OVERRIDES_FILE = "overrides.parquet"
"""File of an artifact of stage `shard` with the overrides that it applied."""

OVERRIDES = pa.schema(
    [
        ("image_id", pa.int64()),
        ("subject", pa.int32()),
        ("predicate", pa.string()),
        ("object", pa.int32()),
        ("holds", pa.bool_()),
    ]
)

Named = tuple[int, int, str]
"""Subject, object and canonical predicate; the ends are indices into the image's boxes."""


@dataclass(frozen=True)
class ImageOverrides:
    """The labels of one image that hold or do not, whatever their confidence."""

    right: frozenset[Named] = frozenset()
    wrong: frozenset[Named] = frozenset()


Overrides = Mapping[int, ImageOverrides]
"""Image id → its overrides; images without any are absent."""


def place_overrides(verdicts: SettledVerdicts, images: pa.Table, relations: pa.Table) -> tuple[Overrides, int]:
    """Finds the boxes of what was settled about the images of a partition, and counts what lies between no boxes of theirs.

    Of several boxes in the same place, all are meant where a label is wrong. A label that is right is meant where the tagger
    has scored it, and otherwise at the first of the boxes.
    """
    scored: dict[int, set[Named]] = {
        row["image_id"]: {(r["subject"], r["object"], canonical(r["predicate"])) for r in row["relations"]}
        for row in relations.to_pylist()
    }
    found: dict[int, ImageOverrides] = {}
    homeless = 0
    for row in images.to_pylist():
        sides = verdicts.right.get(row["digest"], frozenset()), verdicts.wrong.get(row["digest"], frozenset())
        if not any(sides):
            continue
        places: dict[Box4, list[int]] = {}
        for number, box in enumerate(row["boxes"]):
            places.setdefault(box4(box), []).append(number)
        known = scored.get(row["image_id"], set())
        right: set[Named] = set()
        for named in _named(sides[0], places):
            right.update([each for each in named if each in known] or named[:1])
        wrong = {each for named in _named(sides[1], places) for each in named}
        homeless += sum(not named for side in sides for named in _named(side, places))
        if right or wrong:
            found[row["image_id"]] = ImageOverrides(frozenset(right), frozenset(wrong - right))
    return found, homeless


def overrides_table(overrides: Overrides) -> pa.Table:
    """The overrides as a table (schema `OVERRIDES`), in one order."""
    rows = [
        {"image_id": image_id, "subject": subject, "predicate": predicate, "object": object_, "holds": holds}
        for image_id, of_image in sorted(overrides.items())
        for holds, side in ((True, of_image.right), (False, of_image.wrong))
        for subject, object_, predicate in sorted(side)
    ]
    return pa.Table.from_pylist(rows, schema=OVERRIDES)


def overrides_of(run: Run) -> Mapping[str, Overrides]:
    """Partition → the overrides that the pseudo-labels of a run's shards were made with; empty without any."""
    shards = run.artifacts("shard:pseudo")
    return {partition: _recorded(artifact) for partition, artifact in shards.items() if _has_overrides(artifact)}


def _has_overrides(artifact: Artifact) -> bool:
    return OVERRIDES_FILE in artifact.manifest.files


def _recorded(artifact: Artifact) -> Overrides:
    sides: dict[int, tuple[set[Named], set[Named]]] = {}
    for row in artifact.table("overrides").to_pylist():
        named = row["subject"], row["object"], row["predicate"]
        sides.setdefault(row["image_id"], (set(), set()))[0 if row["holds"] else 1].add(named)
    return {image_id: ImageOverrides(frozenset(right), frozenset(wrong)) for image_id, (right, wrong) in sides.items()}


def _named(relations: Iterable[JudgedRelation], places: Mapping[Box4, list[int]]) -> list[list[Named]]:
    """For each relation, the labels that it may be."""
    return [
        [(s, o, each.predicate) for s, o in product(places.get(each.subject, ()), places.get(each.object, ()))]
        for each in sorted(relations, key=lambda r: (r.subject, r.object, r.predicate))
    ]
