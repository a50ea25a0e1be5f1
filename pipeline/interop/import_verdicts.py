"""Turns what people annotated in another tool into verdicts on a run's labels (docs/review.md, Exchange)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pipeline.data.datasets.record import Box, overlap
from pipeline.interop.annotated_image import AnnotatedImage
from pipeline.interop.cvat_reader import read_cvat
from pipeline.interop.label_studio import read_label_studio
from pipeline.labels.label_rows import reviewable_labels
from pipeline.labels.labelled_partitions import images_with_boxes
from pipeline.labels.verdicts import Box4, JudgedRelation, Kind, Verdict, box4, now, require_reviewer
from storage.errors import FatalError
from storage.runs import Run

AnnotationFormat = Literal["label_studio", "cvat"]
_READERS = {"label_studio": read_label_studio, "cvat": read_cvat}
_ENDINGS: Mapping[str, AnnotationFormat] = {".json": "label_studio", ".xml": "cvat"}
SAME_BOX = 0.9
"""Intersection over union from which a box of the file counts as a box of the run, since tools round coordinates."""
FIT = 0.5
"""Smallest share of the file's boxes that must be boxes of the run."""


@dataclass
class _RunImage:
    """An image of the run: its boxes with their categories, and its labels with their confidences."""

    digest: str
    dataset: str
    image_id: int
    boxes: dict[Box4, str]
    labels: dict[JudgedRelation, float] = field(default_factory=dict)


def import_verdicts(
    run: Run, path: Path, form: AnnotationFormat | None, reviewer: str, additions_only: bool = False
) -> list[Verdict]:
    """The verdicts that follow from an annotation file, in the file's order.

    A label of the run that the file holds is accepted, and one that it lacks is rejected, unless `additions_only` says that
    the file was not made from the run's labels. Where the same pair has another predicate instead, the verdict is
    wrong_predicate. A relation that the run does not have is accepted as a label of its own. Images without an annotation say
    nothing. Raises `FatalError` for a file that can't be read or that does not fit the run.
    """
    reviewer = require_reviewer(reviewer)
    form = form or _ENDINGS.get(path.suffix.lower())
    if form is None:
        raise FatalError(f"{path}: name its format with --format label_studio or --format cvat")
    annotated = _READERS[form](path)
    known = _images(run)
    found = [(image, _find(image, known)) for image in annotated]
    ours = [(image, own) for image, own in found if own is not None]
    if not ours:
        first = annotated[0].name if annotated else "none"
        raise FatalError(
            f"{path}: none of its {len(annotated)} images (first: {first}) is in run {run.name!r}; name another run"
        )
    _require_fit(path, run, ours)
    time = now()
    return [
        _verdict(run, own, reviewer, time, *each)
        for image, own in ours
        for each in _differences(image, own, additions_only)
    ]


def _images(run: Run) -> Mapping[tuple[str, str], _RunImage]:
    """The run's images by each way to recognise them: digest, dataset and id, and file name."""
    by_place: dict[tuple[str, int], _RunImage] = {}
    found: dict[tuple[str, str], _RunImage] = {}
    names: dict[str, list[_RunImage]] = defaultdict(list)
    for artifact in images_with_boxes(run).values():
        for row in artifact.table("images").to_pylist():
            boxes = {box4(box): box["category"] for box in row["boxes"]}
            image = _RunImage(row["digest"], row["dataset"], row["image_id"], boxes)
            by_place[image.dataset, image.image_id] = image
            found["digest", image.digest] = image
            found["place", f"{image.dataset}/{image.image_id}"] = image
            for name in {row["uri"], Path(row["uri"]).name}:
                names[name].append(image)
    found.update({("name", name): images[0] for name, images in names.items() if len(images) == 1})
    for label in reviewable_labels(run):
        by_place[label.dataset, label.image_id].labels[label.relation] = label.confidence
    return found


def _find(image: AnnotatedImage, known: Mapping[tuple[str, str], _RunImage]) -> _RunImage | None:
    ways = [
        ("digest", image.digest or ""),
        ("place", f"{image.dataset}/{image.image_id}"),
        ("name", image.name),
        ("name", Path(image.name).name),
    ]
    return next((known[way] for way in ways if way in known), None)


def _require_fit(path: Path, run: Run, images: Sequence[tuple[AnnotatedImage, _RunImage]]) -> None:
    boxes = [_same(place, own) is not None for image, own in images for _, place in image.boxes]
    if boxes and sum(boxes) < FIT * len(boxes):
        raise FatalError(
            f"{path}: only {sum(boxes)} of its {len(boxes)} boxes are boxes of run {run.name!r}; it was made from another run, "
            "or for images of another size"
        )


def _differences(
    image: AnnotatedImage, own: _RunImage, additions_only: bool
) -> Iterator[tuple[JudgedRelation, Kind, str | None, tuple[str, str]]]:
    """Yields relation, kind, corrected predicate and the categories of its ends."""
    places = [_same(place, own) or place for _, place in image.boxes]
    categories = {**{place: name for (name, _), place in zip(image.boxes, places, strict=True)}, **own.boxes}
    held = dict.fromkeys(
        JudgedRelation(own.digest, places[subject], places[object_], predicate)
        for subject, predicate, object_ in image.relations
    )
    added: dict[tuple[Box4, Box4], list[JudgedRelation]] = defaultdict(list)
    for relation in held:
        if relation not in own.labels:
            added[relation.subject, relation.object].append(relation)
    for relation in own.labels:
        names = categories[relation.subject], categories[relation.object]
        renamed = added[relation.subject, relation.object]
        if relation in held:
            yield relation, "accept", None, names
        elif renamed and not additions_only:
            yield relation, "wrong_predicate", renamed.pop(0).predicate, names
        elif not additions_only:
            yield relation, "reject", None, names
    for relations in added.values():
        for relation in relations:
            yield relation, "accept", None, (categories[relation.subject], categories[relation.object])


def _verdict(
    run: Run, own: _RunImage, reviewer: str, time: str,
    relation: JudgedRelation, kind: Kind, corrected: str | None, categories: tuple[str, str],
) -> Verdict:  # fmt: skip
    return Verdict(
        relation, kind, reviewer, time, *categories, corrected_predicate=corrected, queue="import", run=run.name,
        score=own.labels.get(relation), dataset=own.dataset, image_id=own.image_id,
    )  # fmt: skip


def _same(place: Box4, image: _RunImage) -> Box4 | None:
    """The box of the run that a box of the file stands for, if any."""
    if place in image.boxes:
        return place
    overlaps = [(overlap(Box("", *place), Box("", *box)), box) for box in image.boxes]
    best, box = max(overlaps, default=(0.0, place))
    return box if best >= SAME_BOX else None
