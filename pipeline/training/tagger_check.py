"""How well a trained tagger knows the relations of held-out images, given their boxes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from models.network import Network
from models.relation_tagger import PairQueries, RelationTagger
from pipeline.training.pairs import labelled_pairs, normalised_boxes
from pipeline.training.pixels import View, load_pixels
from pipeline.training.sample import TrainingSample
from pipeline.training.settings import TrainingSettings
from pipeline.training.sources import Source
from pipeline.training.texts import NO_OBJECTS, Vocabulary, numbered

MOST_IMAGES = 500


def check_tagger(
    network: Network, source: Source, vocabulary: Vocabulary, settings: TrainingSettings, device: torch.device
) -> dict[str, float]:
    """Scores of every ordered pair of boxes against every predicate, measured against the given relations.

    held_out_map: mean over predicates of the average precision of the ranking; held_out_recall: share of the given
    relations whose predicate is among the two best of its pair; held_out_images: how many images.
    """
    assert isinstance(network, RelationTagger)
    network.eval()
    scores, truths = [], []
    count = min(len(source), MOST_IMAGES)
    for image in range(count):
        for found, truth in _scored(network, source, image, vocabulary, settings, device):
            scores.append(found)
            truths.append(truth)
    network.train()
    score, truth = np.concatenate(scores), np.concatenate(truths)
    best_two = np.argsort(-score, axis=1)[:, :2]
    hits = np.take_along_axis(truth, best_two, axis=1).sum()
    present = np.flatnonzero(truth.any(axis=0))
    precisions = [average_precision(score[:, column], truth[:, column]) for column in present]
    return {
        "held_out_map": float(np.mean(precisions)),
        "held_out_recall": float(hits / np.minimum(truth.sum(axis=1), 2).sum()),
        "held_out_images": float(count),
    }


def average_precision(scores: np.ndarray, truth: np.ndarray) -> float:
    """Mean, over the true items, of the precision down to each in the ranking by score."""
    order = np.argsort(-scores, kind="stable")
    hits = truth[order]
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    return float(precision[hits].mean())


@torch.inference_mode()
def _scored(
    network: RelationTagger,
    source: Source,
    image: int,
    vocabulary: Vocabulary,
    settings: TrainingSettings,
    device: torch.device,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Scores and truth, pairs × predicates, of one image."""
    sample = source.labels(image)
    known = numbered(vocabulary.predicates.names)
    pairs = [(s, o) for s in range(len(sample.boxes)) for o in range(len(sample.boxes)) if s != o]
    truth = _truth(sample, pairs, known)
    if not truth.any():
        return
    objects = [*vocabulary.objects.names, NO_OBJECTS]
    places = numbered(objects)
    texts = network.encode_texts([*objects, *known])
    pixels = load_pixels(source.image(image), View(settings.image_size))[None].to(device)
    padding = torch.zeros(pixels.shape[0], *pixels.shape[2:], dtype=torch.bool, device=device)
    boxes = torch.from_numpy(normalised_boxes(sample)).to(device)
    # A held-out image may have a category that training lacks: then its pairs are no measure of the tagger.
    pairs_known = [place for place, (s, o) in enumerate(pairs) if _named(sample, s, o, places)]
    if not pairs_known:
        return
    subject, object_ = (torch.tensor([pairs[place][role] for place in pairs_known]) for role in (0, 1))
    labels = torch.tensor([places.get(box.category, 0) for box in sample.boxes], device=device)
    queries = PairQueries(
        subject_boxes=boxes[subject][None],
        object_boxes=boxes[object_][None],
        subject_labels=labels[subject][None],
        object_labels=labels[object_][None],
        valid=torch.ones(1, len(pairs_known), dtype=torch.bool, device=device),
    )
    predictions = network(pixels, padding, texts[: len(objects)], texts[len(objects) :], queries)
    yield predictions.predicate_logits[0].sigmoid().float().cpu().numpy(), truth[pairs_known]


def _truth(sample: TrainingSample, pairs: list[tuple[int, int]], known: dict[str, int]) -> np.ndarray:
    truth = np.zeros((len(pairs), len(known)), dtype=bool)
    rows = {pair: row for row, pair in enumerate(pairs)}
    for pair in labelled_pairs(sample):
        for predicate in pair.predicates:
            if predicate in known and (pair.subject, pair.object) in rows:
                truth[rows[pair.subject, pair.object], known[predicate]] = True
    return truth


def _named(sample: TrainingSample, subject: int, object_: int, places: dict[str, int]) -> bool:
    return all(sample.boxes[index].category in places for index in (subject, object_))
