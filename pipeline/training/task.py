"""What the trainer trains: the interface of a task, the inputs of a micro-batch, and the pre-training task.

The inputs are prepared by loader processes, from draws that depend on the seed, the step and the sample, so a training
with other processes sees the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from models.config import NO_OBJECTS
from models.losses import SetCriterion, TaggerCriterion
from models.network import Network, Size
from models.predictions import Predictions, Target
from models.pretrained import load_initial
from models.relation_tagger import PairQueries, RelationTagger
from models.rlip import RLIP
from models.text_encoder import LabelTokenizer, TextTokens
from pipeline.training.sample import TrainingSample
from pipeline.training.settings import TaggerSettings, TrainingSettings
from pipeline.training.vocabulary import Vocabulary, index_by_name
from storage.stream.order import stable_seed


@dataclass(frozen=True)
class TargetPair:
    """An ordered pair of boxes, by index. When `known` is False its predicates are unknown and only its boxes count."""

    subject: int
    object: int
    predicates: Mapping[str, float] = field(default_factory=dict)
    """Predicate → confidence."""
    known: bool = True


def labelled_pairs(sample: TrainingSample) -> list[TargetPair]:
    """Merges the relations of each (subject, object) pair. The most confident pair comes first."""
    merged: dict[tuple[int, int], dict[str, float]] = {}
    for relation in sample.relations:
        predicates = merged.setdefault((relation.subject, relation.object), {})
        predicates[relation.predicate] = max(relation.confidence, predicates.get(relation.predicate, 0.0))
    ranked = sorted(merged.items(), key=lambda item: (-max(item[1].values()), item[0]))
    return [TargetPair(subject, object_, predicates) for (subject, object_), predicates in ranked]


def detection_pairs(sample: TrainingSample, limit: int) -> list[TargetPair]:
    """Returns up to `limit` pairs: the labelled pairs, then each remaining box paired with itself.

    So the network learns every object, with or without relations, and no pairing is invented. A box has no relation to
    itself. In an image without any known relation this says nothing, so no predicate is judged there.
    """
    pairs = labelled_pairs(sample)[:limit]
    covered = {index for pair in pairs for index in (pair.subject, pair.object)}
    alone = [TargetPair(index, index, known=bool(pairs)) for index in range(len(sample.boxes)) if index not in covered]
    return pairs + alone[: limit - len(pairs)]


def tagging_pairs(sample: TrainingSample, limit: int, generator: np.random.Generator) -> list[TargetPair]:
    """Returns up to `limit` pairs: labelled pairs, then random others as negatives (docs/tagger.md, Training)."""
    pairs = labelled_pairs(sample)[:limit]
    taken = {(relation.subject, relation.object) for relation in sample.relations}
    count = len(sample.boxes)
    others = [(s, o) for s in range(count) for o in range(count) if s != o and (s, o) not in taken]
    chosen = generator.permutation(len(others))[: limit - len(pairs)]
    return pairs + [TargetPair(*others[int(place)]) for place in sorted(chosen)]


def normalised_boxes(sample: TrainingSample) -> np.ndarray:
    """Returns N×4 boxes (centre x, centre y, width, height) as shares of the image, clipped to its edges."""
    corners = np.array([(b.x, b.y, b.x + b.w, b.y + b.h) for b in sample.boxes], np.float32).reshape(-1, 4)
    corners = (corners / np.array([sample.width, sample.height] * 2, np.float32)).clip(0, 1)
    return np.concatenate([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], axis=1)


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
    """What a network and its loss need beside the images, in the images' order."""

    texts: TextTokens
    targets: Sequence[Target]
    queries: PairQueries | None = None
    """The pairs that a tagger is given."""


class Task(Protocol):
    """A network and its loss. It can be handed to other processes."""

    def build(self, say: Callable[[str], None]) -> Network:
        """Builds a new network. Random weights come from torch's current generator.

        `say` tells a person which weights come from a file.
        """
        ...

    def inputs(self, samples: Sequence[TrainingSample], draws: Draws) -> StepInputs:
        """Prepares the inputs of a micro-batch on the CPU."""
        ...

    def predict(
        self, network: torch.nn.Module, images_B3HW: Tensor, sizes: Sequence[Size] | None, given: StepInputs
    ) -> Predictions:
        """Runs the network; `sizes` as it takes them. `given` is on its device."""
        ...

    def losses(self, predictions: Predictions, given: StepInputs) -> dict[str, Tensor]:
        """Returns scalars by name, including the total `loss`."""
        ...


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


def full_precision(predictions: Predictions) -> Predictions:
    """Converts predictions to float32, which losses and matching need, whatever the network computed in."""
    tensors = {name: value.float() for name, value in predictions.tensors().items()}
    return Predictions(**tensors, auxiliary=[full_precision(layer) for layer in predictions.auxiliary])


def start_from(network: Network, initial: Path | None, tokenizer: Path, say: Callable[[str], None]) -> None:
    """Loads the weights of a file into the network, if one is given, and says what of the network stays random.

    Raises ValueError when a shape differs.
    """
    if initial is not None:
        say(load_initial(network, initial, tokenizer).describe())


class PretrainTask:
    """Trains RLIPv2 on shards. It learns boxes from every image, and predicates from images that have relations."""

    def __init__(self, settings: TrainingSettings, vocabulary: Vocabulary, tokenizer: Path) -> None:
        self._settings, self._vocabulary, self._folder = settings, vocabulary, tokenizer
        self._config = settings.network
        self._criterion = SetCriterion(settings.loss, official_compat=settings.official)
        self._tokenizer = LabelTokenizer(tokenizer, self._config.text)

    def build(self, say: Callable[[str], None]) -> Network:
        """Builds the network of the settings, with its initial weights where the settings name some."""
        network = RLIP(self._config, self._folder)
        start_from(network, self._settings.pretrained, self._folder, say)
        return network

    def inputs(self, samples: Sequence[TrainingSample], draws: Draws) -> StepInputs:
        """Draws the texts and lists the pairs to find."""
        texts = StepTexts(self._vocabulary, self._settings, samples, draws.texts())
        limit, soft = self._config.pairs, self._settings.soft_targets
        targets = [
            texts.target(
                sample,
                detection_pairs(sample, limit) if self._settings.self_pairs else labelled_pairs(sample)[:limit],
                soft,
            )
            for sample in samples
        ]
        return StepInputs(self._tokenizer(texts.objects, texts.predicates), targets)

    def predict(
        self, network: torch.nn.Module, images_B3HW: Tensor, sizes: Sequence[Size] | None, given: StepInputs
    ) -> Predictions:
        """Runs the network on images and texts."""
        predictions: Predictions = network(images_B3HW, sizes, given.texts)
        return predictions

    def losses(self, predictions: Predictions, given: StepInputs) -> dict[str, Tensor]:
        """Computes the set-prediction loss, with predictions matched to pairs."""
        losses: dict[str, Tensor] = self._criterion(predictions, given.targets, predictions.predicate_features)
        return losses


class TaggerTask:
    """Trains the R-Tagger on images with given relations. Pairs without a relation are negatives."""

    def __init__(self, settings: TaggerSettings, vocabulary: Vocabulary, tokenizer: Path) -> None:
        self._settings, self._vocabulary, self._folder = settings, vocabulary, tokenizer
        self._config = settings.network
        self._criterion = TaggerCriterion(settings.loss, official_compat=settings.official)
        self._tokenizer = LabelTokenizer(tokenizer, self._config.text)

    def build(self, say: Callable[[str], None]) -> Network:
        """Builds the network of the settings, with its initial weights where the settings name some."""
        network = RelationTagger(self._config, self._folder)
        start_from(network, self._settings.pretrained, self._folder, say)
        return network

    def inputs(self, samples: Sequence[TrainingSample], draws: Draws) -> StepInputs:
        """Draws the texts and the pairs, and adds noise to what the network is told of them."""
        texts = StepTexts(self._vocabulary, self._settings, samples, draws.texts())
        names = names_for_noise(len(texts.objects) - 1, len(samples), self._config.official_compat)
        targets, told = [], []
        for sample in samples:
            generator = draws.sample(sample)
            pairs = tagging_pairs(sample, self._config.pairs, generator)
            target = texts.target(sample, pairs, self._settings.soft_targets)
            targets.append(target)
            told.append(add_noise(target, self._settings, names, generator))
        return StepInputs(self._tokenizer(texts.objects, texts.predicates), targets, pair_queries(told))

    def predict(
        self, network: torch.nn.Module, images_B3HW: Tensor, sizes: Sequence[Size] | None, given: StepInputs
    ) -> Predictions:
        """Runs the network on images, texts and pairs."""
        predictions: Predictions = network(images_B3HW, sizes, given.texts, given.queries)
        return predictions

    def losses(self, predictions: Predictions, given: StepInputs) -> dict[str, Tensor]:
        """Computes the loss by position: the i-th prediction belongs to the i-th pair."""
        losses: dict[str, Tensor] = self._criterion(predictions, given.targets)
        return losses


def pair_queries(targets: Sequence[Target]) -> PairQueries:
    """Turns boxes and labels of the targets into queries, padded with empty slots to the longest target."""
    count = max(1, *(len(target.subject_labels) for target in targets))

    def filled(columns: list[Tensor], value: float) -> Tensor:
        rows = [
            torch.cat([column, column.new_full((count - len(column), *column.shape[1:]), value)]) for column in columns
        ]
        return torch.stack(rows)

    return PairQueries(
        subject_boxes=filled([target.subject_boxes for target in targets], 0.5),
        object_boxes=filled([target.object_boxes for target in targets], 0.5),
        subject_labels=filled([target.subject_labels for target in targets], 0),
        object_labels=filled([target.object_labels for target in targets], 0),
        valid=filled([torch.ones_like(target.subject_labels, dtype=torch.bool) for target in targets], False),
    )


def names_for_noise(names: int, images: int, official_compat: bool) -> int:
    """Returns from how many first object names wrong labels are drawn: all. The authors read the images axis by
    mistake."""
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
