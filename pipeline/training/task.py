"""What the trainer trains: a network with its loss and the inputs of a micro-batch, for pre-training and the tagger.

The inputs are prepared by loader processes, from draws that depend on the seed, the step and the sample, so a training
run with another number of processes sees the same.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from models.config import NO_OBJECTS
from models.losses import SetCriterion, TaggerCriterion
from models.network import Network, Size
from models.predictions import Predictions, Target
from models.relation_tagger import PairQueries
from models.text_encoder import LabelTokenizer, TextTokens
from models.weights import build, load_pretrained
from pipeline.training.sample import TrainingSample
from pipeline.training.settings import TaggerSettings, TrainingSettings
from pipeline.training.vocabulary import Vocabulary, index_by_name
from storage.stream.order import stable_seed


@dataclass(frozen=True)
class Draws:
    """The random draws of one micro-batch of a step."""

    seed: int
    step: int
    part: int
    """The number of the micro-batch in its step."""

    def texts(self) -> np.random.Generator:
        """Draws the label texts that the images of the micro-batch share."""
        return np.random.default_rng(stable_seed("texts", self.seed, self.step, self.part))

    def sample(self, sample: TrainingSample) -> np.random.Generator:
        """Draws what concerns one image."""
        return np.random.default_rng(stable_seed("sample", self.seed, self.step, sample.dataset, sample.image_id))

    def seed_torch(self) -> None:
        """Seeds torch's generators on all devices, which dropout draws from."""
        torch.manual_seed(stable_seed("torch", self.seed, self.step, self.part))


@dataclass(frozen=True)
class StepInputs:
    """What a network and its loss need besides the images, in the images' order."""

    texts: TextTokens
    targets: Sequence[Target]
    queries: PairQueries | None = None
    """The pairs that a tagger scores."""


class Task(ABC):
    """A network and its loss. It can be handed to other processes."""

    criterion: ClassVar[type[SetCriterion | TaggerCriterion]]

    def __init__(self, settings: TrainingSettings, vocabulary: Vocabulary, tokenizer: Path) -> None:
        self._settings, self._vocabulary, self._folder = settings, vocabulary, tokenizer
        self._criterion = self.criterion(settings.loss, official_compat=settings.official)
        self._tokenizer = LabelTokenizer(tokenizer, settings.network.text)

    def build(self, report: Callable[[str], None]) -> Network:
        """Builds the network of the settings, with its pretrained weights where the settings name some.

        Random weights come from torch's current generator. `report` receives a sentence about which weights come from
        the file. Raises what `load_pretrained` raises.
        """
        network = build(self._settings.network, self._folder)
        if self._settings.pretrained is not None:
            report(load_pretrained(network, self._settings.pretrained, self._folder).describe())
        return network

    @abstractmethod
    def inputs(self, samples: Sequence[TrainingSample], draws: Draws) -> StepInputs:
        """Prepares the inputs of a micro-batch on the CPU."""

    def predict(
        self, network: torch.nn.Module, images_B3HW: Tensor, sizes: Sequence[Size] | None, inputs: StepInputs
    ) -> Predictions:
        """Runs the network; `sizes` as it takes them. `inputs` are on its device."""
        queries = () if inputs.queries is None else (inputs.queries,)
        predictions: Predictions = network(images_B3HW, sizes, inputs.texts, *queries)
        return predictions

    @abstractmethod
    def losses(self, predictions: Predictions, inputs: StepInputs) -> dict[str, Tensor]:
        """Returns scalars by name, including the total `loss`."""


class StepTexts:
    """The object and predicate texts of a micro-batch."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        settings: TrainingSettings,
        samples: Sequence[TrainingSample],
        generator: np.random.Generator,
    ) -> None:
        objects = {box.category for sample in samples for box in sample.boxes}
        predicates = {relation.predicate for sample in samples for relation in sample.relations}
        self.objects = [*vocabulary.objects.draw(objects, settings.object_texts, generator), NO_OBJECTS]
        self.predicates = vocabulary.predicates.draw(predicates, settings.predicate_texts, generator)
        self._object_places, self._predicate_places = index_by_name(self.objects), index_by_name(self.predicates)

    def target(self, sample: TrainingSample, pairs: Sequence[TargetPair], soft: bool) -> Target:
        """Converts pairs to tensors. `soft`: a predicate's target is its confidence instead of 1."""
        boxes = torch.from_numpy(normalised_boxes(sample))
        labels = torch.tensor([self._object_places[box.category] for box in sample.boxes], dtype=torch.int64)
        subject = torch.tensor([pair.subject for pair in pairs], dtype=torch.int64)
        object_ = torch.tensor([pair.object for pair in pairs], dtype=torch.int64)
        predicates = torch.zeros(len(pairs), len(self.predicates))
        for row, pair in enumerate(pairs):
            for predicate, confidence in pair.predicates.items():
                predicates[row, self._predicate_places[predicate]] = confidence if soft else 1.0
        known = torch.tensor([pair.known for pair in pairs], dtype=torch.bool)
        return Target(labels[subject], labels[object_], boxes[subject], boxes[object_], predicates, known)


class PretrainTask(Task):
    """Trains RLIPv2 on shards. It learns boxes from every image, and predicates from images that have relations."""

    criterion = SetCriterion

    def inputs(self, samples: Sequence[TrainingSample], draws: Draws) -> StepInputs:
        """Draws the texts and lists the pairs to find."""
        settings = self._settings
        texts = StepTexts(self._vocabulary, settings, samples, draws.texts())
        pairs_of = detection_pairs if settings.self_pairs else labelled_pairs
        pairs = [pairs_of(sample, settings.network.pairs) for sample in samples]
        targets = [texts.target(sample, its, settings.soft_targets) for sample, its in zip(samples, pairs, strict=True)]
        return StepInputs(self._tokenizer(texts.objects, texts.predicates), targets)

    def losses(self, predictions: Predictions, inputs: StepInputs) -> dict[str, Tensor]:
        """Computes the set-prediction loss, with predictions matched to pairs."""
        losses: dict[str, Tensor] = self._criterion(predictions, inputs.targets, predictions.predicate_features)
        return losses


class TaggerTask(Task):
    """Trains the R-Tagger on images with ground-truth relations. Pairs without a relation are negatives."""

    criterion = TaggerCriterion
    _settings: TaggerSettings

    def inputs(self, samples: Sequence[TrainingSample], draws: Draws) -> StepInputs:
        """Draws the texts and the pairs, and adds noise to the boxes and labels that the network gets."""
        settings, network = self._settings, self._settings.network
        texts = StepTexts(self._vocabulary, settings, samples, draws.texts())
        names = names_for_noise(len(texts.objects) - 1, len(samples), network.official_compat)
        targets, noisy = [], []
        for sample in samples:
            generator = draws.sample(sample)
            pairs = tagging_pairs(sample, network.pairs, generator)
            targets.append(texts.target(sample, pairs, settings.soft_targets))
            noisy.append(add_noise(targets[-1], settings, names, generator))
        return StepInputs(self._tokenizer(texts.objects, texts.predicates), targets, pair_queries(noisy))

    def losses(self, predictions: Predictions, inputs: StepInputs) -> dict[str, Tensor]:
        """Computes the loss by position: the i-th prediction belongs to the i-th pair."""
        losses: dict[str, Tensor] = self._criterion(predictions, inputs.targets)
        return losses


@dataclass(frozen=True)
class TargetPair:
    """An ordered pair of boxes, by index. When `known` is False its predicates are unknown and only its boxes count."""

    subject: int
    object: int
    predicates: Mapping[str, float] = field(default_factory=dict)
    """Predicate → confidence."""
    known: bool = True


def labelled_pairs(sample: TrainingSample, limit: int | None = None) -> list[TargetPair]:
    """Merges the relations of each (subject, object) pair. Returns up to `limit` pairs, the most confident first.

    Pairs with uncertain relations alone come last, as pairs with unknown predicates.
    """
    merged: dict[tuple[int, int], dict[str, float]] = {}
    for relation in sample.relations:
        predicates = merged.setdefault((relation.subject, relation.object), {})
        predicates[relation.predicate] = max(relation.confidence, predicates.get(relation.predicate, 0.0))
    ranked = sorted(merged.items(), key=lambda item: (-max(item[1].values()), item[0]))
    pairs = [TargetPair(subject, object_, predicates) for (subject, object_), predicates in ranked]
    others = {(relation.subject, relation.object) for relation in sample.uncertain} - merged.keys()
    return (pairs + [TargetPair(*pair, known=False) for pair in sorted(others)])[:limit]


def detection_pairs(sample: TrainingSample, limit: int) -> list[TargetPair]:
    """Returns up to `limit` pairs: those of `labelled_pairs`, then each remaining box paired with itself.

    The network thus learns every object, with or without relations, and no pairing is invented. A box has no relation
    to itself. In an image without any known relation this says nothing, so no predicate is scored there.
    """
    pairs = labelled_pairs(sample, limit)
    covered = {index for pair in pairs for index in (pair.subject, pair.object)}
    known = any(pair.known for pair in pairs)
    alone = [TargetPair(index, index, known=known) for index in range(len(sample.boxes)) if index not in covered]
    return pairs + alone[: limit - len(pairs)]


def tagging_pairs(sample: TrainingSample, limit: int, generator: np.random.Generator) -> list[TargetPair]:
    """Returns up to `limit` pairs: labelled pairs, then random others as negatives (docs/labels.md)."""
    pairs = labelled_pairs(sample, limit)
    taken = {(relation.subject, relation.object) for relation in sample.relations + sample.uncertain}
    count = len(sample.boxes)
    others = [(s, o) for s in range(count) for o in range(count) if s != o and (s, o) not in taken]
    chosen = generator.permutation(len(others))[: limit - len(pairs)]
    return pairs + [TargetPair(*others[int(place)]) for place in sorted(chosen)]


def normalised_boxes(sample: TrainingSample) -> np.ndarray:
    """Returns N×4 boxes (centre x, centre y, width, height) as shares of the image, clipped to its edges."""
    corners = np.array([(b.x, b.y, b.x + b.w, b.y + b.h) for b in sample.boxes], np.float32).reshape(-1, 4)
    corners = (corners / np.array([sample.width, sample.height] * 2, np.float32)).clip(0, 1)
    return np.concatenate([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], axis=1)


def pair_queries(targets: Sequence[Target]) -> PairQueries:
    """Turns boxes and labels of the targets into queries, padded with empty slots to the longest target."""

    def filled(columns: list[Tensor], value: float) -> Tensor:
        one = columns[0].new_empty(1, *columns[0].shape[1:])  # so that there is a slot where no target has a pair
        return pad_sequence([*columns, one], batch_first=True, padding_value=value)[:-1]

    return PairQueries(
        subject_boxes=filled([target.subject_boxes for target in targets], 0.5),
        object_boxes=filled([target.object_boxes for target in targets], 0.5),
        subject_labels=filled([target.subject_labels for target in targets], 0),
        object_labels=filled([target.object_labels for target in targets], 0),
        valid=filled([torch.ones_like(target.subject_labels, dtype=torch.bool) for target in targets], False),
    )


def names_for_noise(names: int, images: int, official_compat: bool) -> int:
    """Returns the number of first object names from which wrong labels are drawn: all. The authors' code reads the
    wrong axis, that of images."""
    return min(names, images) if official_compat else names


def add_noise(target: Target, settings: TaggerSettings, names: int, generator: np.random.Generator) -> Target:
    """Moves and scales the boxes of one image, and replaces labels, at random.

    `names`: number of object texts to draw labels from.
    """

    def moved(boxes: Tensor) -> Tensor:
        drawn = torch.from_numpy(generator.uniform(-1, 1, boxes.shape).astype(np.float32))
        scale = torch.tensor([0.5, 0.5, 1.0, 1.0]) * settings.box_noise
        return (boxes + drawn * boxes[..., 2:].repeat(1, 2) * scale).clamp(0, 1)

    def replaced(labels: Tensor) -> Tensor:
        drawn = torch.from_numpy(generator.integers(0, names, labels.shape))
        chosen = torch.from_numpy(generator.random(labels.shape) < settings.label_noise)
        return torch.where(chosen, drawn, labels)

    return replace(
        target,
        subject_boxes=moved(target.subject_boxes),
        object_boxes=moved(target.object_boxes),
        subject_labels=replaced(target.subject_labels),
        object_labels=replaced(target.object_labels),
    )
