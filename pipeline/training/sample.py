"""The labels of one training image, its objects and relations, and their format in a shard (docs/shards.md, Labels)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

from pipeline.data.images.training_view import Crop, TrainingView
from storage.errors import FatalError

VERSION = 1
"""Version of the JSON form. Raise it whenever a reader of the older form would misread the new one."""


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
    surface: str = ""
    """The predicate as the dataset words it or, for labels from captions, as `tag.wording` does."""
    ambiguity: int | None = None
    """The number of pairs that the caption may mean; None for a relation that no caption states about this pair."""
    triplet: int | None = None
    """The triplet of the image that it came from, by number."""
    caption: int | None = None
    """The caption of that triplet."""


@dataclass(frozen=True)
class TrainingSample:
    """The labels of one image. `width` and `height` are those of the raw image in pixels."""

    image_id: int
    dataset: str
    width: int
    height: int
    boxes: tuple[SampleBox, ...]
    relations: tuple[SampleRelation, ...]
    uncertain: tuple[SampleRelation, ...] = ()
    """Relations that may hold or not. A pair that has no others is neither a positive nor a negative example."""
    labels: str = "given"
    """Source of relations: pseudo (a tagger), naive (captions alone), given (ground truth of the dataset), or none."""
    tagger: str | None = None
    """Digest of the tagger's weights."""

    def to_json(self) -> bytes:
        """Returns the JSON member of a shard. Equal samples give equal bytes."""
        values = {"version": VERSION} | asdict(self)
        del values["boxes"], values["relations"], values["uncertain"]
        values["objects"] = [box._asdict() for box in self.boxes]
        values["relations"] = _json(self.relations)
        if self.uncertain:
            values["uncertain"] = _json(self.uncertain)
        return json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, data: bytes) -> TrainingSample:
        """Reads the output of `to_json`. Raises `FatalError` when fields are missing, unknown or ill-typed."""
        try:
            values = json.loads(data)
            version = values.pop("version")
            if version != VERSION:
                raise FatalError(
                    f"its labels are of version {version}, but this version reads {VERSION}; pack the images again, or "
                    "read them with the version that wrote them"
                )
            boxes = tuple(SampleBox(**box) for box in values.pop("objects"))
            if not all(isinstance(side, int | float) for box in boxes for side in box[1:]):
                raise TypeError("a side of a box is not a number")
            relations = tuple(SampleRelation(**relation) for relation in values.pop("relations"))
            uncertain = tuple(SampleRelation(**relation) for relation in values.pop("uncertain", ()))
            return cls(boxes=boxes, relations=relations, uncertain=uncertain, **values)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise FatalError(f"its labels are damaged ({error}): {data[:120]!r}; pack the images again") from error

    @classmethod
    def from_row(
        cls,
        row: Mapping[str, Any],
        relations: Sequence[SampleRelation],
        labels: str = "given",
        tagger: str | None = None,
        uncertain: Sequence[SampleRelation] = (),
    ) -> TrainingSample:
        """Builds the sample of a row of the `images` table. Relations index the boxes of the row.

        Crowd boxes stand for many objects, so they are excluded together with their relations.
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
            relations=_between(relations, place),
            uncertain=_between(uncertain, place),
            labels=labels,
            tagger=tagger,
        )

    def worded(self) -> TrainingSample:
        """Returns the sample with predicates in the words of its captions or its dataset."""
        return replace(self, relations=tuple(r._replace(predicate=r.surface or r.predicate) for r in self.relations))


def _json(relations: Iterable[SampleRelation]) -> list[dict[str, Any]]:
    return [{name: value for name, value in each._asdict().items() if value not in (None, "")} for each in relations]


def _between(relations: Iterable[SampleRelation], place: Mapping[int, int]) -> tuple[SampleRelation, ...]:
    """Returns the relations whose boxes both have a place, with these."""
    return tuple(
        relation._replace(subject=place[relation.subject], object=place[relation.object])
        for relation in relations
        if relation.subject in place and relation.object in place
    )


def viewed(sample: TrainingSample, view: TrainingView) -> TrainingSample:
    """Returns the labels of what the view shows, in pixels of the view.

    Boxes are clipped to what is shown. Boxes without any area left are excluded together with their relations. An
    official view leaves "left" and "right" in predicates when it mirrors, as the authors do.
    """
    left, top, width, height = view.crop or Crop(0, 0, sample.width, sample.height)
    across, down = view.width / width, view.height / height
    boxes: list[SampleBox] = []
    place: dict[int, int] = {}
    for index, box in enumerate(sample.boxes):
        x, right = (min(max(edge - left, 0.0), width) for edge in (box.x, box.x + box.w))
        y, bottom = (min(max(edge - top, 0.0), height) for edge in (box.y, box.y + box.h))
        if right > x and bottom > y:
            place[index] = len(boxes)
            boxes.append(SampleBox(box.category, x * across, y * down, (right - x) * across, (bottom - y) * down))
    relations, uncertain = _between(sample.relations, place), _between(sample.uncertain, place)
    shown = replace(
        sample, width=view.width, height=view.height, boxes=tuple(boxes), relations=relations, uncertain=uncertain
    )
    if not view.mirrored:
        return shown
    turned = mirrored(shown)
    return replace(turned, relations=relations) if view.official else turned


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
