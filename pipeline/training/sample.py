"""The labels of one training image, its boxes and relations, and their JSON form beside the image in a shard."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

from storage.errors import FatalError


class SampleBox(NamedTuple):
    """The bounding box of an object: top-left corner and size in absolute pixels of the raw image."""

    category: str
    x: float
    y: float
    w: float
    h: float


class SampleRelation(NamedTuple):
    """A relation between two boxes of the sample, by index; `predicate` is canonical, `confidence` in [0, 1]."""

    subject: int
    object: int
    predicate: str
    confidence: float = 1.0


@dataclass(frozen=True)
class TrainingSample:
    """The labels of one image. `width` and `height` are those of the raw image in pixels."""

    image_id: int
    dataset: str
    width: int
    height: int
    boxes: tuple[SampleBox, ...]
    relations: tuple[SampleRelation, ...]

    def to_json(self) -> bytes:
        """Returns the JSON member of a shard. Equal samples give equal bytes."""
        values = asdict(self)
        values["boxes"] = [box._asdict() for box in self.boxes]
        values["relations"] = [relation._asdict() for relation in self.relations]
        return json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, data: bytes) -> TrainingSample:
        """Reads the output of `to_json`. Raises `FatalError` when fields are missing, unknown or ill-typed."""
        try:
            values = json.loads(data)
            boxes = tuple(SampleBox(**box) for box in values.pop("boxes"))
            relations = tuple(SampleRelation(**relation) for relation in values.pop("relations"))
            return cls(boxes=boxes, relations=relations, **values)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise FatalError(f"a sample of a shard is damaged ({error}): {data[:120]!r}; rebuild the shard") from error

    @classmethod
    def from_row(cls, row: Mapping[str, Any], relations: Sequence[SampleRelation]) -> TrainingSample:
        """Builds the sample of a row of the `images` table. `relations` index the boxes of the row.

        Crowd boxes stand for many objects, so they are left out together with their relations.
        """
        kept = [index for index, box in enumerate(row["boxes"]) if not box["crowd"]]
        place = {index: position for position, index in enumerate(kept)}
        boxes = [row["boxes"][index] for index in kept]
        return cls(
            image_id=row["image_id"],
            dataset=row["dataset"],
            width=row["width"],
            height=row["height"],
            boxes=tuple(SampleBox(box["category"], *(round(box[side], 3) for side in "xywh")) for box in boxes),
            relations=tuple(
                relation._replace(subject=place[relation.subject], object=place[relation.object])
                for relation in relations
                if relation.subject in place and relation.object in place
            ),
        )


def mirrored(sample: TrainingSample) -> TrainingSample:
    """Returns the sample of the mirrored image."""
    return replace(
        sample,
        boxes=tuple(box._replace(x=sample.width - box.x - box.w) for box in sample.boxes),
        relations=tuple(r._replace(predicate=mirrored_predicate(r.predicate)) for r in sample.relations),
    )


def mirrored_predicate(predicate: str) -> str:
    """Returns the predicate that holds in the mirrored image: "left" and "right" change places."""
    sides = {"left": "right", "right": "left"}
    return " ".join(sides.get(word, word) for word in predicate.split(" "))


def strongest(relations: Sequence[SampleRelation], limit: int) -> tuple[SampleRelation, ...]:
    """Returns the `limit` most confident relations, each triplet once, ordered by subject, object, predicate."""
    best: dict[tuple[int, str, int], SampleRelation] = {}
    for relation in relations:
        name = (relation.subject, relation.predicate, relation.object)
        if name not in best or relation.confidence > best[name].confidence:
            best[name] = relation
    ranked = sorted(best.values(), key=lambda r: (-r.confidence, r.subject, r.object, r.predicate))
    return tuple(sorted(ranked[:limit], key=lambda r: (r.subject, r.object, r.predicate)))
