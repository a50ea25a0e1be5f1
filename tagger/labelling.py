"""Candidate pairs to scored relations with the Relation Tagger: each image is encoded once.

A score depends on the list of texts, since image and texts are fused before pairs are scored. So that it does not
depend on what else is in the batch, the list is the same for every image: the categories and the predicates given by
the caller (the tagger's training vocabulary). Only an image whose captions say a predicate beyond them gets a longer
list: its own novel predicates, sorted, are appended, and it is scored with images that have the very same ones.
Images share a batch only if their pixels have the same shape, so nothing is padded.

Shapes: B images, H×W pixels, N pairs, P predicate texts, E width of text features.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.relation_tagger import PairQueries, RelationTagger
from tagger.box import Box
from tagger.candidates import Pair
from tagger.relation import Relation

NO_OBJECTS = "no objects"
FLOOR = 0.05


@dataclass(frozen=True)
class TaggingImage:
    """An image with its boxes and candidate pairs.

    `width`, `height`: pixels of the original image, which the boxes are measured in.
    `shape`: (H, W) of what `load` gives: 3×H×W float pixels, normalised as the tagger was trained, or None if the
    image can't be read.
    """

    width: int
    height: int
    boxes: Sequence[Box]
    pairs: Sequence[Pair]
    shape: tuple[int, int]
    load: Callable[[], Tensor | None]


@dataclass(frozen=True)
class _Batch:
    """Positions of images that are scored together, and the predicates they add to the vocabulary."""

    images: list[int]
    novel: tuple[str, ...]


def tag_images(
    tagger: RelationTagger,
    images: Sequence[TaggingImage],
    categories: Sequence[str],
    predicates: Sequence[str],
    batch_size: int = 8,
    floor: float = FLOOR,
) -> list[list[Relation] | None]:
    """Relations of each image: every candidate whose pair scores at least `floor` on its predicate, in candidate order.

    A score is the sigmoid of the predicate's logit for the pair that the caption proposed. `categories` are the
    data set's category names, `predicates` the tagger's training vocabulary; their order is part of the input.
    None for an image whose `load` gave None; images without candidates are not loaded. Puts the tagger in evaluation
    mode and runs where its parameters are.

    Raises ValueError for a box category that is not in `categories` and for pixels of another shape than announced,
    FloatingPointError for a score that is not a number.
    """
    places = {category: place for place, category in enumerate(categories)}
    for image in images:
        _require_known(image, places)
    results: list[list[Relation] | None] = [[] for _ in images]
    tagger.eval()
    with torch.inference_mode():
        objects_TE = tagger.encode_texts([*categories, NO_OBJECTS])
        known_PE = tagger.encode_texts(list(predicates))
        for batch in _batches(images, predicates, batch_size):
            loaded = [(position, _load(images[position])) for position in batch.images]
            for position in (position for position, pixels in loaded if pixels is None):
                results[position] = None
            readable = [(position, pixels) for position, pixels in loaded if pixels is not None]
            if not readable:
                continue
            texts = {text: place for place, text in enumerate([*predicates, *batch.novel])}
            predicates_PE = torch.cat([known_PE, tagger.encode_texts(batch.novel)]) if batch.novel else known_PE
            chosen = [images[position] for position, _ in readable]
            pixels_B3HW = torch.stack([pixels for _, pixels in readable])
            scores_BNP = _scores(tagger, chosen, pixels_B3HW, objects_TE, predicates_PE, places)
            for image, (position, _), scores_NP in zip(chosen, readable, scores_BNP, strict=True):
                results[position] = _relations(image, scores_NP, texts, floor)
    return results


def _require_known(image: TaggingImage, places: dict[str, int]) -> None:
    for box in image.boxes:
        if box.category not in places:
            raise ValueError(
                f"box category {box.category!r} is not among the {len(places)} category texts given to the tagger: "
                "give all category names of the data set"
            )


def _load(image: TaggingImage) -> Tensor | None:
    pixels = image.load()
    if pixels is not None and tuple(pixels.shape) != (3, *image.shape):
        raise ValueError(
            f"pixels of shape {tuple(pixels.shape)} loaded where {(3, *image.shape)} was announced: compute the shape "
            "from the size that the file really has"
        )
    return pixels


def _batches(images: Sequence[TaggingImage], predicates: Sequence[str], size: int) -> Iterator[_Batch]:
    """Images with candidates, grouped by novel predicates and shape; a function of the images alone."""
    vocabulary = frozenset(predicates)
    groups: dict[tuple[tuple[str, ...], tuple[int, int]], list[int]] = {}
    for position, image in enumerate(images):
        if image.pairs:
            novel = tuple(sorted({pair.predicate for pair in image.pairs} - vocabulary))
            groups.setdefault((novel, image.shape), []).append(position)
    for (novel, _), positions in groups.items():
        for start in range(0, len(positions), size):
            yield _Batch(positions[start : start + size], novel)


def _scores(
    tagger: RelationTagger,
    images: Sequence[TaggingImage],
    pixels_B3HW: Tensor,
    objects_TE: Tensor,
    predicates_PE: Tensor,
    places: dict[str, int],
) -> Tensor:
    """Probabilities B×N×P of the distinct box pairs of each image, in the order of `_box_pairs`."""
    pixels_B3HW = pixels_B3HW.to(objects_TE)
    padding_BHW = torch.zeros(pixels_B3HW.shape[0], *pixels_B3HW.shape[2:], dtype=torch.bool, device=pixels_B3HW.device)
    encoded = tagger.encode(pixels_B3HW, padding_BHW, objects_TE, predicates_PE)
    predictions = tagger.score(encoded, _queries(images, places, pixels_B3HW.device))
    return predictions.predicate_logits.float().sigmoid().cpu()


def _queries(images: Sequence[TaggingImage], places: dict[str, int], device: torch.device) -> PairQueries:
    pairs = [_box_pairs(image) for image in images]
    count = max(map(len, pairs))
    subject_boxes, object_boxes = torch.full((2, len(images), count, 4), 0.5)
    subject_labels, object_labels = torch.zeros(2, len(images), count, dtype=torch.long)
    valid = torch.zeros(len(images), count, dtype=torch.bool)
    for row, (image, ends) in enumerate(zip(images, pairs, strict=True)):
        boxes = torch.tensor([_cxcywh(box, image) for box in image.boxes])
        labels = torch.tensor([places[box.category] for box in image.boxes])
        subjects, objects = torch.tensor(ends).unbind(1)
        subject_boxes[row, : len(ends)], object_boxes[row, : len(ends)] = boxes[subjects], boxes[objects]
        subject_labels[row, : len(ends)], object_labels[row, : len(ends)] = labels[subjects], labels[objects]
        valid[row, : len(ends)] = True
    tensors = (subject_boxes, object_boxes, subject_labels, object_labels, valid)
    return PairQueries(*(tensor.to(device) for tensor in tensors))


def _box_pairs(image: TaggingImage) -> list[tuple[int, int]]:
    """Distinct (subject, object) box indices of the candidates, sorted."""
    return sorted({(pair.subject, pair.object) for pair in image.pairs})


def _cxcywh(box: Box, image: TaggingImage) -> tuple[float, float, float, float]:
    """Normalised centre and size, clipped to the image."""
    left, top = max(box.x, 0.0), max(box.y, 0.0)
    right, bottom = min(box.x + box.w, image.width), min(box.y + box.h, image.height)
    return (
        (left + right) / 2 / image.width,
        (top + bottom) / 2 / image.height,
        max(right - left, 0.0) / image.width,
        max(bottom - top, 0.0) / image.height,
    )


def _relations(image: TaggingImage, scores_NP: Tensor, texts: dict[str, int], floor: float) -> list[Relation]:
    rows = {ends: row for row, ends in enumerate(_box_pairs(image))}
    relations = []
    for pair in image.pairs:
        score = float(scores_NP[rows[pair.subject, pair.object], texts[pair.predicate]])
        if score != score:
            raise FloatingPointError(
                f"the tagger's score of {pair.predicate!r} is not a number: its weights are damaged or were trained "
                "with too high a learning rate"
            )
        if score >= floor:
            relations.append(Relation(pair.subject, pair.object, pair.predicate, score, True, pair.triplet))
    return relations
