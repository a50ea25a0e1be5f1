"""Measures how well a tagger finds the relations of held-out images, given their boxes, and calibrates its scores.

Shapes: N pairs, P predicates.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.config import NO_OBJECTS
from models.network import Network
from models.relation_tagger import PairQueries, RelationTagger
from pipeline.data.images.opening import BadImage, decode_image
from pipeline.data.images.views import to_pixels
from pipeline.training.ranks import Arrays, Ranks
from pipeline.training.sample import SampleBox, TrainingSample
from pipeline.training.settings import CALIBRATION, TaggerSettings, TrainingSettings
from pipeline.training.shards import ShardSamples
from pipeline.training.task import labelled_pairs, normalised_boxes
from pipeline.training.vocabulary import Vocabulary, index_by_name
from storage.atomic import write_atomic
from storage.shards.reader import DamagedSample
from tagger.audit.labels import SYMMETRIC
from tagger.box import Box
from tagger.candidates.grounding import pair_priors
from tagger.labelling.calibration import USUAL_SUPPORT, Calibration, Parts, Stack, calibration_error, features
from tagger.labelling.labeller import TextList
from tagger.labelling.posteriors import posteriors
from tagger.pair import Pair
from tagger.triplet import NameTriplet

MAX_IMAGES = 500
MAX_IMAGES_BETWEEN = 100
"""Maximum number of images measured during the training run; at its end, `MAX_IMAGES` are."""
RECALLS = (20, 50)
CALIBRATION_FOLDS = 2
"""Number of parts of the held-out images; the probabilities of each come from a calibration on the others."""
FALSE_SHARE = 0.3
"""Share of false statements in what captions state about boxes."""

BoxPair = tuple[int, int]


@dataclass(frozen=True)
class Proposal:
    """A label that a caption would propose, and whether it is correct."""

    image: int
    candidate: Pair
    """Its pair, and the statement as its mention."""
    score: float
    right: bool


@dataclass(frozen=True)
class ScoredPairs:
    """Scores and truth of the box pairs of one image, N×P."""

    sample: TrainingSample
    pairs: list[BoxPair]
    scores: NDArray[np.float32]
    truth: NDArray[np.bool_]

    def arrays(self) -> Arrays:
        """Returns arrays from which other processes can rebuild it."""
        sample = np.frombuffer(self.sample.to_json(), np.uint8)
        return {"sample": sample, "pairs": np.array(self.pairs), "scores": self.scores, "truth": self.truth}

    @classmethod
    def of_arrays(cls, arrays: Arrays) -> ScoredPairs:
        """Rebuilds it from the output of `arrays`."""
        sample = TrainingSample.from_json(arrays["sample"].tobytes())
        pairs = [(subject, object_) for subject, object_ in arrays["pairs"].tolist()]
        return cls(sample, pairs, arrays["scores"], arrays["truth"])


def check_tagger(
    network: Network,
    source: ShardSamples,
    vocabulary: Vocabulary,
    settings: TrainingSettings,
    ranks: Ranks,
    symmetric: Collection[str] = (),
    most: int = MAX_IMAGES,
) -> tuple[dict[str, float], Calibration]:
    """Scores every ordered pair of boxes for the names of the held-out images, and measures this against the relations.

    Returns measurements by name, and the calibration fitted on the proposals of all images. held_out_map: mean over
    predicates of the average precision over all pairs; held_out_recall: share of the true relations, two of a pair at
    most, whose predicate is among the two best of its pair; held_out_recall_20, _50: share of an image's true relations
    among its 20 (50) best labels, mean over images; held_out_calibration_error: of the proposals' scores;
    held_out_calibrated_error: of their probabilities, calibrated on other images; held_out_images: number of images
    that could be scored.

    Of more than `most` images, those with the lowest hashes of their keys count, so each dataset has its share.
    The names are the most frequent ones of these images, and others up to the number that a step has. Processes share
    the images, and all return the same. Proposals imitate those of captions: all pairs of boxes of the two categories
    of each true relation, and of some relations that only other images have. For proposals, a relation with a
    `symmetric` predicate holds both ways. The network is left in training mode.
    """
    assert isinstance(network, RelationTagger)
    chosen: list[int] = np.sort(np.argsort(source.samples.identities, kind="stable")[:most]).tolist()
    names = _names(source, chosen, vocabulary, settings)
    network.eval()
    with torch.inference_mode():
        texts = network.encode_tokens(
            network.transformer.text_encoder.tokenizer([*names.objects, NO_OBJECTS], names.predicates).to(ranks.device)
        )
        own = {i: _scored(network, texts, source, i, names, settings, ranks.device) for i in _shared(chosen, ranks)}
    network.train()
    scored = ranks.every({i: each.arrays() for i, each in own.items() if each is not None})
    images = [ScoredPairs.of_arrays(arrays) for _, arrays in sorted(scored.items())]
    stated = [_stated(image, names.predicates) for image in images]
    everywhere = Counter(statement for of_image in stated for statement in sorted(of_image))
    proposed = [
        proposal
        for number, (image, true) in enumerate(zip(images, stated, strict=True))
        for proposal in proposals(
            number, image, names.predicates, true | _false(number, image, names.predicates, true, everywhere), symmetric
        )
    ]
    scores = _rankings(images) | _calibration_errors(proposed) | {"held_out_images": float(len(images))}
    return scores, replace(_calibrated_on(proposed), stack=_stacked_on(proposed))


def _names(source: ShardSamples, chosen: Sequence[int], vocabulary: Vocabulary, settings: TrainingSettings) -> TextList:
    read = (source.read([image])[0] for image in chosen)
    samples = [one[0] for one in read if not isinstance(one, DamagedSample)]
    objects = {box.category for sample in samples for box in sample.boxes}
    predicates = {relation.predicate for sample in samples for relation in sample.relations}
    return TextList(
        vocabulary.objects.most_frequent(objects, settings.object_texts),
        vocabulary.predicates.most_frequent(predicates, settings.predicate_texts),
    )


def _shared(chosen: Sequence[int], ranks: Ranks) -> list[int]:
    """The images that a process scores. All score the same number, some images twice, to gather weights together."""
    places = range(ranks.rank, -(-len(chosen) // ranks.count) * ranks.count, ranks.count)
    return [chosen[place % len(chosen)] for place in places]


def average_precision(scores: NDArray[np.float32], truth: NDArray[np.bool_]) -> float:
    """Ranks items by score and returns the mean, over the true items, of the precision down to each."""
    order = np.argsort(-scores, kind="stable")
    hits = truth[order]
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    return float(precision[hits].mean())


def _rankings(images: Sequence[ScoredPairs]) -> dict[str, float]:
    if not images:
        return {}
    score, truth = (np.concatenate([getattr(image, name) for image in images]) for name in ("scores", "truth"))
    best_two = np.argsort(-score, axis=1)[:, :2]
    hits = np.take_along_axis(truth, best_two, axis=1).sum()
    present = np.flatnonzero(truth.any(axis=0))
    precisions = [average_precision(score[:, column], truth[:, column]) for column in present]
    scores = {
        "held_out_map": float(np.mean(precisions)),
        "held_out_recall": float(hits / np.minimum(truth.sum(axis=1), 2).sum()),
    }
    for most in RECALLS:
        shares = []
        for image in images:
            best = np.argsort(-image.scores, axis=None, kind="stable")[:most]
            shares.append(image.truth.reshape(-1)[best].sum() / image.truth.sum())
        scores[f"held_out_recall_{most}"] = float(np.mean(shares))
    return scores


def proposals(
    number: int, image: ScoredPairs, names: Sequence[str], stated: Collection[NameTriplet], symmetric: Collection[str]
) -> Iterator[Proposal]:
    """Yields the labels of image `number` that captions with the `stated` facts would propose."""
    boxes, columns = image.sample.boxes, index_by_name(names)
    true = {(r.subject, r.predicate, r.object) for r in image.sample.relations}
    rows: dict[tuple[str, str], list[int]] = {}
    for row, (subject, object_) in enumerate(image.pairs):
        rows.setdefault((boxes[subject].category, boxes[object_].category), []).append(row)
    for mention, (subject_name, predicate, object_name) in enumerate(sorted(stated)):
        own = rows.get((subject_name, object_name), [])
        pairs = [image.pairs[row] for row in own]
        right = [(s, predicate, o) in true or (predicate in symmetric and (o, predicate, s) in true) for s, o in pairs]
        # A caption states how many pairs are meant, and a false one states a single pair.
        priors = pair_priors(pairs, [Box(*box) for box in boxes], max(sum(right), 1))
        for row, (subject, object_), prior, holds in zip(own, pairs, priors, right, strict=True):
            candidate = Pair(subject, object_, predicate, 0, len(pairs), mention, prior)
            yield Proposal(number, candidate, float(image.scores[row, columns[predicate]]), holds)


def _stated(image: ScoredPairs, names: Sequence[str]) -> set[NameTriplet]:
    """Returns the relations of the image that have known predicates, with categories in place of boxes."""
    boxes, known = image.sample.boxes, set(names)
    return {
        (boxes[r.subject].category, r.predicate, boxes[r.object].category)
        for r in image.sample.relations
        if r.predicate in known
    }


def _false(
    number: int, image: ScoredPairs, names: Sequence[str], true: set[NameTriplet], everywhere: Counter[NameTriplet]
) -> set[NameTriplet]:
    """Draws statements about the categories of the image that are true only in other images.

    Common and plausible statements are drawn more often, because a captioner errs in what it might have seen.
    """
    columns = index_by_name(names)
    boxes = image.sample.boxes
    here = {box.category for box in boxes}
    best: dict[NameTriplet, float] = {}
    for row, (subject, object_) in enumerate(image.pairs):
        for predicate, column in columns.items():
            statement = boxes[subject].category, predicate, boxes[object_].category
            best[statement] = max(best.get(statement, 0.0), float(image.scores[row, column]))
    options = [s for s in sorted(everywhere) if s not in true and s[0] in here and s[2] in here and s in best]
    wanted = min(len(options), round(len(true) * FALSE_SHARE / (1 - FALSE_SHARE)))
    if not wanted:
        return set()
    weights = np.array([everywhere[statement] * best[statement] for statement in options], np.float64)
    # Seeded by the image, because all processes must draw the same
    generator = np.random.default_rng(number)
    drawn = generator.choice(len(options), wanted, replace=False, p=weights / weights.sum())
    return {options[int(place)] for place in drawn}


def _calibrated_on(proposed: Sequence[Proposal]) -> Calibration:
    predicates = [p.candidate.predicate for p in proposed]
    return Calibration.fit(predicates, [p.score for p in proposed], [p.right for p in proposed])


def _calibrated_on_others(proposed: Sequence[Proposal]) -> list[float]:
    """The probability of each proposal, calibrated on other images."""
    # A calibration fits its own labels too well, so the stack would trust the tagger too much.
    count = CALIBRATION_FOLDS
    folds = [_calibrated_on([p for p in proposed if p.image % count != fold]) for fold in range(count)]
    return [folds[p.image % count].probability(p.candidate.predicate, p.score) for p in proposed]


def _stacked_on(proposed: Sequence[Proposal]) -> Stack:
    labels: list[Parts] = []
    of_image = groupby(zip(proposed, _calibrated_on_others(proposed), strict=True), key=lambda each: each[0].image)
    for _, each in of_image:
        own, calibrated = zip(*each, strict=True)
        pairs = [proposal.candidate for proposal in own]
        for pair, probability, posterior in zip(pairs, calibrated, posteriors(pairs, calibrated), strict=True):
            labels.append(features(probability, pair.prior, posterior or 0.0, USUAL_SUPPORT))
    return Stack.fit(labels, [p.right for p in proposed])


def _calibration_errors(proposed: Sequence[Proposal]) -> dict[str, float]:
    right, calibrated = [p.right for p in proposed], _calibrated_on_others(proposed)
    errors = {
        "held_out_calibration_error": calibration_error([p.score for p in proposed], right),
        "held_out_calibrated_error": calibration_error(calibrated, right),
    }
    return {name: error for name, error in errors.items() if error is not None}


def _scored(
    network: RelationTagger,
    texts: tuple[Tensor, Tensor],
    source: ShardSamples,
    image: int,
    names: TextList,
    settings: TrainingSettings,
    device: torch.device,
) -> ScoredPairs | None:
    """Returns scores and truth of one image; None if it can't be read, or has no relation of known predicate and
    categories. The network always runs, as it does in the other processes.
    """
    sample, whole = _read(source, image, settings.whole_size)
    known = index_by_name(names.predicates)
    places = index_by_name(names.objects)
    # A held-out image may have a category that is not in the training set. Its pairs cannot measure the tagger.
    named = [index for index, box in enumerate(sample.boxes) if box.category in places]
    pairs = [(s, o) for s in named for o in named if s != o]
    truth = _truth(sample, pairs, known)
    pairs = pairs or [(0, 0)]
    pixels = whole[None].to(device)
    boxes = torch.from_numpy(normalised_boxes(sample)).to(device)
    subject, object_ = (torch.tensor([pair[role] for pair in pairs], device=device) for role in (0, 1))
    labels = torch.tensor([places.get(box.category, 0) for box in sample.boxes], device=device)
    queries = PairQueries(
        subject_boxes=boxes[subject][None],
        object_boxes=boxes[object_][None],
        subject_labels=labels[subject][None],
        object_labels=labels[object_][None],
        valid=torch.ones(1, len(pairs), dtype=torch.bool, device=device),
    )
    predictions = network.predict(pixels, None, *texts, queries)
    if not truth.any():
        return None
    return ScoredPairs(sample, pairs, predictions.predicate_logits[0].sigmoid().float().cpu().numpy(), truth)


def _read(source: ShardSamples, image: int, size: int) -> tuple[TrainingSample, Tensor]:
    """Returns labels and pixels of an image, or a blank image without relations if it can't be read."""
    read = source.read([image])[0]
    if not isinstance(read, DamagedSample):
        with suppress(BadImage):
            return read[0], to_pixels(decode_image(read[1]), size)
    return TrainingSample(0, "", 64, 64, (SampleBox("", 0, 0, 64, 64),), ()), torch.zeros(3, 64, 64)


def _truth(sample: TrainingSample, pairs: Sequence[BoxPair], known: dict[str, int]) -> NDArray[np.bool_]:
    truth = np.zeros((len(pairs), len(known)), dtype=bool)
    rows = {pair: row for row, pair in enumerate(pairs)}
    for pair in labelled_pairs(sample):
        for predicate in pair.predicates:
            if predicate in known and (pair.subject, pair.object) in rows:
                truth[rows[pair.subject, pair.object], known[predicate]] = True
    return truth


@dataclass(frozen=True)
class HeldOut:
    """Measures the tagger on held-out images every `check_every` steps, and calibrates it after the last step."""

    images: ShardSamples
    vocabulary: Vocabulary
    settings: TaggerSettings
    work: Path

    def is_due(self, step: int, total: int) -> bool:
        """Every `check_every` steps and after the last one, if images are held out."""
        return len(self.images) > 0 and (step == total or step % self.settings.check_every == 0)

    def measure(self, network: Network, is_last: bool, ranks: Ranks) -> Mapping[str, float]:
        """Returns the measurements; after the last step, it also writes the calibration."""
        most = MAX_IMAGES if is_last else MAX_IMAGES_BETWEEN
        scores, calibration = check_tagger(network, self.images, self.vocabulary, self.settings, ranks, SYMMETRIC, most)
        if is_last and ranks.rank == 0:
            write_atomic(self.work / CALIBRATION, calibration.to_json())
        return scores
