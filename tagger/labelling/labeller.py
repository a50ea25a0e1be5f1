"""Scores candidate pairs with the Relation Tagger; each image is encoded once.

A score depends on the list of texts, because image and texts are fused before pairs are scored, and on the pairs of the
same group. Both depend on the image alone: its list begins with names that are the same for every image, followed by
its other categories and predicates; its groups are its distinct pairs of boxes in order, split every `config.pairs`.
Batching changes no score: images share a pass through the encoder only when their pixels have the same shape and their
lists are the same, and a pass through the decoders only when their shapes are the same.

Shapes: B images, H×W pixels, N pairs, T object texts (the last is "no objects"), P predicate texts, D and E width of
features and of texts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from models.config import NO_OBJECTS
from models.encoder import Encoded
from models.packed_network import packed
from models.predictions import check_finite
from models.relation_tagger import PairQueries, RelationTagger
from tagger.box import Box
from tagger.labelling.calibration import Calibration
from tagger.labelling.posteriors import distinct_labels
from tagger.labelling.tagging_image import Labels, Problem, TaggingImage
from tagger.relation import Relation

CACHE_LIMIT = 20_000
"""Number of cached strings beyond the fixed lists; when the cache is full, it is cleared."""
NOT_A_NUMBER = "score is not a number"

Ends = tuple[int, int]
"""(subject, object) box indices"""


class TaggerLabeller:
    """Labels images with a tagger and caches the features of all texts; one instance per worker."""

    def __init__(
        self,
        tagger: RelationTagger,
        categories: Sequence[str] = (),
        predicates: Sequence[str] = (),
        calibration: Calibration | None = None,
        scope: Literal["pair", "image"] = "pair",
        floor: float = 0.0,
        images_together: int = 8,
        pairs_together: int = 1600,
        precision: Literal["float32", "bfloat16"] = "float32",
    ) -> None:
        """`categories`, `predicates`: names in the text list of every image.

        `calibration`: converts each score to a probability, from which posteriors are computed.
        `scope`: "pair" scores a predicate on the pairs that captions propose it for, "image" every predicate that the
        image's captions propose on every proposed pair (the authors' way). Scores below `floor` are dropped.
        `images_together` and `pairs_together` bound the memory of a pass through the encoder and the decoders.
        Puts the tagger in evaluation mode and runs on the device of its parameters.

        Raises FloatingPointError when a weight is not finite.
        """
        # Scores may not show it, because the ReLU of oneDNN's kernels turns NaN into 0.
        for name, weight in tagger.named_parameters():
            if not weight.isfinite().all():
                raise FloatingPointError(f"weight {name} is not finite: the tagger's training diverged; retrain it")
        self._device = next(tagger.parameters()).device
        self._scope, self._floor, self._calibration = scope, floor, calibration
        self._images_together, self._pairs_together = images_together, pairs_together
        self._precision = torch.bfloat16 if precision == "bfloat16" else torch.float32
        self._tagger = packed(tagger.eval(), self._precision)
        with torch.inference_mode(), self._casting():
            self._texts = LabelTexts(self._tagger, categories, predicates)

    def label(
        self, images: Sequence[TaggingImage], progress: Callable[[int], None] = lambda done: None
    ) -> list[Labels]:
        """Returns the labels of each image that reach the floor: candidates first, in their order.

        A relation that no caption proposes for its pair (scope "image") has `proposed` False and no triplet. Images
        without candidates are not loaded. An image gets a problem instead of labels when its scores are not numbers or
        it can't be read. `progress` is called with the number of images done.

        Raises ValueError when pixels do not have the announced shape.
        """
        all_labels = [Labels() for _ in images]
        waiting = [position for position, image in enumerate(images) if image.pairs]
        done = len(images) - len(waiting)
        chunks = list(self._chunks(images, waiting))
        with torch.inference_mode(), self._casting(), ThreadPoolExecutor(1) as pool:
            # The next images are read while these are scored.
            coming = [pool.submit(_load, images, chunk) for chunk in chunks[:1]]
            for number, chunk in enumerate(chunks, start=1):
                loaded = coming.pop().result()
                coming += [pool.submit(_load, images, following) for following in chunks[number : number + 1]]
                for position, labels in self._label(images, dict(zip(chunk, loaded, strict=True))):
                    all_labels[position] = labels
                done += len(chunk)
                progress(done)
        return all_labels

    def _chunks(self, images: Sequence[TaggingImage], waiting: Iterable[int]) -> Iterator[list[int]]:
        """Yields positions of images of the same shape; images with the same texts are adjacent."""
        shapes: dict[tuple[int, int], list[int]] = {}
        for position in waiting:
            shapes.setdefault(images[position].shape, []).append(position)
        for positions in shapes.values():
            lists: dict[TextList, list[int]] = {}
            for position in positions:
                lists.setdefault(self._list_of(images[position]), []).append(position)
            ordered = [position for members in lists.values() for position in members]
            for start in range(0, len(ordered), self._images_together):
                yield ordered[start : start + self._images_together]

    def _label(
        self, images: Sequence[TaggingImage], loaded: dict[int, Tensor | Problem]
    ) -> Iterator[tuple[int, Labels]]:
        pixels: dict[int, Tensor] = {}
        for position, one in loaded.items():
            if isinstance(one, Problem):
                yield position, Labels(problem=one)
            else:
                pixels[position] = one
        if not pixels:
            return
        chosen = [images[position] for position in pixels]
        try:
            yield from zip(pixels, self._scored(chosen, list(pixels.values())), strict=True)
        except FloatingPointError as error:
            if len(pixels) == 1:
                yield from ((position, Labels(problem=Problem(NOT_A_NUMBER, str(error)))) for position in pixels)
            else:
                # The bad values of one image must not cost the others their labels.
                for position, one in pixels.items():
                    yield from self._label(images, {position: one})

    def _scored(self, images: Sequence[TaggingImage], pixels: Sequence[Tensor]) -> list[Labels]:
        """Labels images of one shape. Raises FloatingPointError when any score is not a number."""
        lists = [self._list_of(image) for image in images]
        encoded = self._encode(lists, pixels)
        ends = [image.ends for image in images]
        scored: list[tuple[Part, Tensor]] = []
        for parts in pack([len(pairs) for pairs in ends], self._tagger.config.pairs, self._pairs_together):
            queries = _queries(images, lists, ends, parts, self._device)
            together = _side_by_side([encoded[part.image] for part in parts])
            logits_BNP = self._tagger.decode(together, queries).predicate_logits
            scored += zip(parts, logits_BNP.float().sigmoid(), strict=True)
        # The only place that waits for the device.
        on_host = torch.cat([scores_NP.flatten() for _, scores_NP in scored]).cpu()
        check_finite({"scores of predicates": on_host}, self._tagger)
        scores_NP = [torch.empty(len(pairs), len(texts.predicates)) for pairs, texts in zip(ends, lists, strict=True)]
        for (part, like), flat in zip(scored, torch.split(on_host, [x.numel() for _, x in scored]), strict=True):
            into = scores_NP[part.image]
            into[part.start : part.end] = flat.view_as(like)[: part.end - part.start, : into.shape[1]]
        return [
            Labels(self._relations(image, pairs, texts, scores))
            for image, pairs, texts, scores in zip(images, ends, lists, scores_NP, strict=True)
        ]

    def _encode(self, lists: Sequence[TextList], pixels: Sequence[Tensor]) -> list[Encoded]:
        """Returns each image's row of the encoder output; images with the same texts are encoded together."""
        rows_of: dict[TextList, list[int]] = {}
        for row, texts in enumerate(lists):
            rows_of.setdefault(texts, []).append(row)
        encoded: dict[int, Encoded] = {}
        for texts, rows in rows_of.items():
            pixels_B3HW = torch.stack([pixels[row] for row in rows]).to(self._device, non_blocking=True)
            together = self._tagger.encode(pixels_B3HW, None, *self._texts.features(texts))
            encoded |= {row: _row(together, place) for place, row in enumerate(rows)}
        return [encoded[row] for row in range(len(lists))]

    def _relations(
        self, image: TaggingImage, ends: Sequence[Ends], texts: TextList, scores_NP: Tensor
    ) -> list[Relation]:
        scores = scores_NP.tolist()
        rows = {pair: row for row, pair in enumerate(ends)}
        columns = {predicate: column for column, predicate in enumerate(texts.predicates)}

        def relation(subject: int, object_: int, predicate: str, triplet: int) -> Relation:
            score = scores[rows[subject, object_]][columns[predicate]]
            probability = self._calibration.probability(predicate, score) if self._calibration else None
            return Relation(subject, object_, predicate, score, triplet >= 0, triplet, probability)

        stated = [relation(pair.subject, pair.object, pair.predicate, pair.triplet) for pair in image.pairs]
        labels = distinct_labels(stated, image.pairs)
        if self._scope == "image":
            for subject, object_ in ends:
                for predicate in sorted({pair.predicate for pair in image.pairs}):
                    labels.setdefault((subject, object_, predicate), relation(subject, object_, predicate, -1))
        return [one for one in labels.values() if one.score >= self._floor]

    def _list_of(self, image: TaggingImage) -> TextList:
        return self._texts.list_for((box.category for box in image.boxes), (pair.predicate for pair in image.pairs))

    def _casting(self) -> torch.autocast:
        return torch.autocast(self._device.type, self._precision, enabled=self._precision != torch.float32)


@dataclass(frozen=True)
class TextList:
    """The texts that one image is scored against: object names without "no objects", and predicates."""

    objects: tuple[str, ...]
    predicates: tuple[str, ...]


class LabelTexts:
    """Builds text lists that begin with the same names for every image, and computes their features.

    The fixed names are encoded together, all others one by one. So the features of a string never depend on which
    strings were requested before, and scores do not depend on the order of processing.
    """

    def __init__(self, tagger: RelationTagger, objects: Sequence[str], predicates: Sequence[str]) -> None:
        """`objects`, `predicates`: the names in every list. Must be called in the precision of the scoring."""
        self._tagger = tagger
        self._objects, self._predicates = tuple(dict.fromkeys(objects)), tuple(dict.fromkeys(predicates))
        fixed = list(dict.fromkeys([*self._objects, NO_OBJECTS, *self._predicates]))
        self._fixed: dict[str, Tensor] = dict(zip(fixed, tagger.encode_texts(fixed), strict=True))
        self._others: dict[str, Tensor] = {}

    def list_for(self, objects: Iterable[str], predicates: Iterable[str]) -> TextList:
        """Returns the list of an image with these names: the fixed ones, then its others in alphabetical order."""
        return TextList(
            self._objects + tuple(sorted(set(objects).difference(self._objects))),
            self._predicates + tuple(sorted(set(predicates).difference(self._predicates))),
        )

    def features(self, texts: TextList) -> tuple[Tensor, Tensor]:
        """Returns the features of the objects and "no objects" (T×E), and of the predicates (P×E)."""
        return self._stacked([*texts.objects, NO_OBJECTS]), self._stacked(texts.predicates)

    def _stacked(self, texts: Sequence[str]) -> Tensor:
        if not texts:
            return self._tagger.encode_texts([])
        return torch.stack([self._fixed[text] if text in self._fixed else self._other(text) for text in texts])

    def _other(self, text: str) -> Tensor:
        if text not in self._others:
            if len(self._others) >= CACHE_LIMIT:
                self._others.clear()
            self._others[text] = self._tagger.encode_texts([text])[0]
        return self._others[text]


@dataclass(frozen=True)
class Part:
    """Consecutive pairs of one image, from `start` to `end` (exclusive)."""

    image: int
    start: int
    end: int


def pack(counts: Sequence[int], group: int, most: int) -> Iterator[list[Part]]:
    """Yields decoder calls for images with `counts` pairs, each of at most `most` slots but at least one group.

    `group`: number of pairs in a full group. A call has as many slots per image as its longest part, so only parts of
    similar length, up to twice as long, share a call. An image with too many pairs for a call is cut between groups.
    """
    whole = max(1, most // group) * group
    parts = [
        Part(image, start, min(start + whole, count))
        for image, count in enumerate(counts)
        for start in range(0, count, whole)
    ]
    classes: dict[int, list[Part]] = {}
    for part in parts:
        classes.setdefault((part.end - part.start - 1).bit_length(), []).append(part)
    for size in sorted(classes):
        longest = max(part.end - part.start for part in classes[size])
        slots = longest if longest <= group else -(-longest // group) * group
        together = max(1, most // slots)
        for start in range(0, len(classes[size]), together):
            yield classes[size][start : start + together]


def _load(images: Sequence[TaggingImage], positions: Iterable[int]) -> list[Tensor | Problem]:
    loaded = [(images[position], images[position].load()) for position in positions]
    for image, pixels in loaded:
        if isinstance(pixels, Tensor) and tuple(pixels.shape) != (3, *image.shape):
            raise ValueError(
                f"loaded pixels have shape {tuple(pixels.shape)}, but {(3, *image.shape)} was declared; compute the "
                "shape from the actual size of the file"
            )
    return [pixels for _, pixels in loaded]


def _row(encoded: Encoded, row: int) -> Encoded:
    one = slice(row, row + 1)
    return Encoded(
        memory=encoded.memory[one],
        padding=None,
        shapes=encoded.shapes,
        valid_ratios=encoded.valid_ratios[:1],
        texts=[texts_BTD[one] for texts_BTD in encoded.texts],
        text_key_padding_mask=None,
        objects=encoded.objects,
    )


def _side_by_side(rows: Sequence[Encoded]) -> Encoded:
    """Batches images of the same shape. Shorter text lists are padded with zeros, which nothing reads."""
    if len(rows) == 1:
        return rows[0]
    objects = max(row.objects for row in rows)
    predicates = max(row.texts[0].shape[1] - row.objects for row in rows)

    def filled(texts_1TD: Tensor, row: Encoded) -> Tensor:
        of_objects, of_predicates = texts_1TD.tensor_split([row.objects], dim=1)
        return torch.cat(
            (
                F.pad(of_objects, (0, 0, 0, objects - of_objects.shape[1])),
                F.pad(of_predicates, (0, 0, 0, predicates - of_predicates.shape[1])),
            ),
            dim=1,
        )

    return Encoded(
        memory=torch.cat([row.memory for row in rows]),
        padding=None,
        shapes=rows[0].shapes,
        valid_ratios=rows[0].valid_ratios,
        texts=[torch.cat([filled(row.texts[layer], row) for row in rows]) for layer in range(len(rows[0].texts))],
        text_key_padding_mask=None,
        objects=objects,
    )


def _queries(
    images: Sequence[TaggingImage],
    lists: Sequence[TextList],
    ends: Sequence[Sequence[Ends]],
    parts: Sequence[Part],
    device: torch.device,
) -> PairQueries:
    """Builds one row per part, padded with empty slots to the longest part."""
    count = max(part.end - part.start for part in parts)
    subject_boxes, object_boxes = torch.full((2, len(parts), count, 4), 0.5)
    subject_labels, object_labels = torch.zeros(2, len(parts), count, dtype=torch.long)
    valid = torch.zeros(len(parts), count, dtype=torch.bool)
    for row, part in enumerate(parts):
        image, length = images[part.image], part.end - part.start
        places = {category: place for place, category in enumerate(lists[part.image].objects)}
        boxes = torch.tensor([_cxcywh(box, image) for box in image.boxes])
        labels = torch.tensor([places[box.category] for box in image.boxes])
        subjects, objects = torch.tensor(ends[part.image][part.start : part.end]).unbind(1)
        subject_boxes[row, :length], object_boxes[row, :length] = boxes[subjects], boxes[objects]
        subject_labels[row, :length], object_labels[row, :length] = labels[subjects], labels[objects]
        valid[row, :length] = True
    tensors = (subject_boxes, object_boxes, subject_labels, object_labels, valid)
    return PairQueries(*(tensor.to(device, non_blocking=True) for tensor in tensors))


def _cxcywh(box: Box, image: TaggingImage) -> tuple[float, float, float, float]:
    """Returns the normalised centre and size of a box, clipped to the image."""
    left, top = max(box.x, 0.0), max(box.y, 0.0)
    right, bottom = min(box.x + box.w, image.width), min(box.y + box.h, image.height)
    return (
        (left + right) / 2 / image.width,
        (top + bottom) / 2 / image.height,
        max(right - left, 0.0) / image.width,
        max(bottom - top, 0.0) / image.height,
    )
