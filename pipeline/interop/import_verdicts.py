"""Converts annotations from another tool to verdicts on a run's labels (docs/review.md, Exchange)."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple
from xml.etree import ElementTree

from pipeline.data.datasets.record import Box, overlap
from pipeline.interop.label_studio import AnnotatedImage, read_label_studio
from pipeline.labels.label_rows import reviewable_labels
from pipeline.labels.labelled_partitions import images_with_boxes
from pipeline.labels.verdicts import Box4, JudgedRelation, Kind, Verdict, box4, now, require_reviewer
from storage.errors import FatalError
from storage.runs import Run

AnnotationFormat = Literal["label_studio", "cvat"]
_ENDINGS: Mapping[str, AnnotationFormat] = {".json": "label_studio", ".xml": "cvat"}
SAME_BOX = 0.9
"""Minimum intersection over union for boxes of the file and the run to match, since tools round coordinates."""
FIT = 0.5
"""Minimum share of the file's boxes that must match boxes of the run."""


@dataclass
class _RunImage:
    """An image of the run: its boxes with their categories, and its labels."""

    digest: str
    dataset: str
    image_id: int
    boxes: dict[Box4, str]
    labels: dict[JudgedRelation, None] = field(default_factory=dict)


def import_verdicts(
    run: Run, path: Path, form: AnnotationFormat | None, reviewer: str, additions_only: bool = False
) -> list[Verdict]:
    """The verdicts that an annotation file implies, in the file's order.

    A label of the run is accepted if the file contains it and rejected if not, unless the annotator never saw it, or
    `additions_only` says that the file was not made from the run's labels. If the file has another predicate for the
    pair instead, the verdict is wrong_predicate. A relation that the run lacks is accepted as a new label. Images
    without an annotation say nothing. Raises `FatalError` for a file that is unreadable or does not match the run.
    """
    reviewer = require_reviewer(reviewer)
    form = form or _ENDINGS.get(path.suffix.lower())
    if form is None:
        raise FatalError(f"{path}: name its format with --format label_studio or --format cvat; unpack archives first")
    annotated = read_label_studio(path) if form == "label_studio" else read_cvat(path)
    known = _images(run, annotated)
    namesakes = Counter(Path(name).name for name in {image.name for image in annotated})
    found = [(image, _find(image, known, namesakes)) for image in annotated]
    ours = [(_fitted(image, own), own) for image, own in found if own is not None]
    if not ours:
        first = annotated[0].name if annotated else "none"
        raise FatalError(
            f"{path}: none of its {len(annotated)} images (first: {first}) is in run {run.name!r}; name another run"
        )
    boxes = [place in own.boxes for image, own in ours for _, place in image.boxes]
    if boxes and sum(boxes) < FIT * len(boxes):
        raise FatalError(
            f"{path}: only {sum(boxes)} of its {len(boxes)} boxes match boxes of run {run.name!r}; it was made from a "
            "different run, or for images of a different size"
        )
    time = now()
    held = {relation for image, own in ours for relation in _relations(image, own)}
    return [
        Verdict(
            relation, kind, reviewer, time, *names, corrected_predicate=corrected, queue="import", run=run.name,
            dataset=own.dataset, image_id=own.image_id,
        )
        for image, own in ours
        for relation, kind, corrected, names in _differences(image, own, held, additions_only)
    ]  # fmt: skip


def _images(run: Run, annotated: Iterable[AnnotatedImage]) -> Mapping[tuple[str, str], _RunImage]:
    """The run's images that a file may mean, by each identifier: digest, dataset and id, and file name."""
    asked = {way for image in annotated for way in _ways(image)}
    by_place: dict[tuple[str, int], _RunImage] = {}
    found: dict[tuple[str, str], _RunImage] = {}
    names: dict[str, list[_RunImage]] = defaultdict(list)
    for artifact in images_with_boxes(run).values():
        for row in artifact.table("images").to_pylist():
            own = ("digest", row["digest"]), ("place", f"{row['dataset']}/{row['image_id']}")
            named = {row["uri"], Path(row["uri"]).name}
            if asked.isdisjoint({*own, *(("name", name) for name in named)}):
                continue
            boxes = {box4(box): box["category"] for box in row["boxes"]}
            image = _RunImage(row["digest"], row["dataset"], row["image_id"], boxes)
            by_place[image.dataset, image.image_id] = image
            found.update(dict.fromkeys(own, image))
            for name in named:
                names[name].append(image)
    found.update({("name", name): images[0] for name, images in names.items() if len(images) == 1})
    for label in reviewable_labels(run):
        if judged := by_place.get((label.dataset, label.image_id)):
            judged.labels[label.relation] = None
    return found


def _ways(image: AnnotatedImage) -> list[tuple[str, str]]:
    """The identifiers of the run's image, best first."""
    place = f"{image.dataset}/{image.image_id}"
    return [("digest", image.digest or ""), ("place", place), ("name", image.name), ("name", Path(image.name).name)]


def _find(
    image: AnnotatedImage, known: Mapping[tuple[str, str], _RunImage], namesakes: Mapping[str, int]
) -> _RunImage | None:
    """The run's image. `namesakes` counts the file's images by their names without folders."""
    _, place, _, (_, base) = ways = _ways(image)
    if place in known and known[place].digest == image.digest:  # copies have one digest
        return known[place]
    if namesakes[base] > 1:
        ways.pop()
    return next((known[way] for way in ways if way in known), None)


def _fitted(image: AnnotatedImage, own: _RunImage) -> AnnotatedImage:
    """The image with the run's boxes in place of those that match them."""
    return replace(image, boxes=tuple((name, _same(place, own) or place) for name, place in image.boxes))


def _relations(image: AnnotatedImage, own: _RunImage) -> dict[JudgedRelation, None]:
    places = [place for _, place in image.boxes]
    return dict.fromkeys(
        JudgedRelation(own.digest, places[subject], places[object_], predicate)
        for subject, predicate, object_ in image.relations
    )


def _differences(
    image: AnnotatedImage, own: _RunImage, held: Set[JudgedRelation], additions_only: bool
) -> Iterator[tuple[JudgedRelation, Kind, str | None, tuple[str, str]]]:
    """Yields relation, kind, corrected predicate, and the categories of subject and object.

    `held` are the relations of all images: those of equal bytes share their verdicts.
    """
    categories = {**{place: name for name, place in image.boxes}, **own.boxes}
    # The annotator also saw what the run keeps by verdicts alone.
    labels = own.labels | {
        JudgedRelation(own.digest, subject, object_, predicate): None
        for subject, predicate, object_ in sorted(image.shown or ())
        if {subject, object_} <= own.boxes.keys()
    }
    added: dict[tuple[Box4, Box4], list[JudgedRelation]] = defaultdict(list)
    for relation in _relations(image, own):
        if relation not in labels:
            added[relation.subject, relation.object].append(relation)
    for relation in labels:
        names = categories[relation.subject], categories[relation.object]
        renamed = added[relation.subject, relation.object]
        label = relation.subject, relation.predicate, relation.object
        if relation in held:
            yield relation, "accept", None, names
        elif additions_only or (image.shown is not None and label not in image.shown):
            continue
        elif renamed:
            yield relation, "wrong_predicate", renamed.pop(0).predicate, names
        else:
            yield relation, "reject", None, names
    for relations in added.values():
        for relation in relations:
            yield relation, "accept", None, (categories[relation.subject], categories[relation.object])


def _same(place: Box4, image: _RunImage) -> Box4 | None:
    """The box of the run that matches a box of the file, if any."""
    if place in image.boxes:
        return place
    overlaps = [(overlap(Box("", *place), Box("", *box)), box) for box in image.boxes]
    best, box = max(overlaps, default=(0.0, place))
    return box if best >= SAME_BOX else None


_STATED = re.compile(r"(.+\S)\s+(\S+)", re.DOTALL)


class _Box(NamedTuple):
    category: str
    place: Box4
    group: str
    attributes: dict[str, str]


def read_cvat(path: Path) -> list[AnnotatedImage]:
    """Reads all images of an export ("CVAT for images 1.1", XML), where attributes or groups state relations.

    Attributes: a box has `number`, and its `relations` lists predicates with their object's number, e.g. "ride 2; look
    at 3". Groups: two boxes in a group have `role` "subject" and "object", and the subject's `predicate` names the
    predicate. https://docs.cvat.ai/docs/dataset_management/formats/format-cvat describes the file. The parser reads no
    other files, and refuses entities that expand to much. Raises `FatalError` if the file is not CVAT's.
    """
    images, outermost = [], ""
    try:
        for _, element in ElementTree.iterparse(path):
            outermost = element.tag
            if element.tag == "image":
                images.append(_image(element))
                # Without this, the whole tree of a large file would stay in memory.
                element.clear()
    except ElementTree.ParseError as error:
        raise FatalError(f"{path}: not XML ({error}); export `CVAT for images 1.1`, and unpack the archive") from error
    except (KeyError, ValueError) as error:
        reason = error if isinstance(error, ValueError) else repr(error)
        raise FatalError(f"{path}: image {len(images) + 1}: {reason}") from error
    if outermost != "annotations" or not images:
        raise FatalError(f"{path}: has no element `annotations` with images; export `CVAT for images 1.1`")
    return images


def _image(element: ElementTree.Element) -> AnnotatedImage:
    boxes, name = [], element.attrib["name"]
    for box in element.iter("box"):
        if float(box.get("rotation", 0)):
            raise ValueError(f"image {name!r}: a box is rotated; draw it upright")
        left, top, right, bottom = (float(box.attrib[side]) for side in ("xtl", "ytl", "xbr", "ybr"))
        place = round(left, 2), round(top, 2), round(right - left, 2), round(bottom - top, 2)
        attributes = {each.attrib["name"]: each.text or "" for each in box.iter("attribute")}
        boxes.append(_Box(box.attrib["label"], place, box.get("group_id", "0"), attributes))
    relations = (*_by_attributes(name, boxes), *_by_groups(name, boxes))
    places = tuple((box.category, box.place) for box in boxes)
    # A half-finished job has images that nobody has opened: without a box, nothing says that a label was seen.
    return AnnotatedImage(name, places, tuple(dict.fromkeys(relations)), shown=None if boxes else frozenset())


def _by_attributes(image: str, boxes: list[_Box]) -> list[tuple[int, str, int]]:
    numbers: dict[str, list[int]] = defaultdict(list)
    for place, box in enumerate(boxes):
        numbers[box.attributes.get("number", "").strip()].append(place)
    found = []
    for place, box in enumerate(boxes):
        for stated in box.attributes.get("relations", "").split(";"):
            if not stated.strip():
                continue
            match = _STATED.fullmatch(stated.strip())
            if match is None or len(numbered := numbers[match[2]]) != 1:
                raise ValueError(
                    f"image {image!r}: relation {stated.strip()[:80]!r}: write PREDICATE NUMBER, e.g. ride 2, with the "
                    "number of one box"
                )
            found.append((place, match[1], numbered[0]))
    return found


def _by_groups(image: str, boxes: list[_Box]) -> list[tuple[int, str, int]]:
    groups: dict[str, dict[str, list[int]]] = {}
    for place, box in enumerate(boxes):
        role = box.attributes.get("role", "").strip()
        if box.group not in ("", "0") and role in ("subject", "object"):
            groups.setdefault(box.group, {}).setdefault(role, []).append(place)
    found = []
    for group, roles in groups.items():
        if {role: len(places) for role, places in roles.items()} != {"subject": 1, "object": 1}:
            raise ValueError(f"image {image!r}: group {group} needs one box with role subject and one with role object")
        predicate = boxes[roles["subject"][0]].attributes.get("predicate", "").strip()
        if not predicate:
            raise ValueError(f"image {image!r}: group {group}: the subject's attribute `predicate` is empty")
        found.append((roles["subject"][0], predicate, roles["object"][0]))
    return found
