"""What the trainer trains: the interface of a task, the inputs of a micro-batch, and the pre-training task.

The inputs are prepared by loader processes, from draws that depend on the seed, the step and the sample, so a training
with other processes sees the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from models.config import NO_OBJECTS, NetworkConfig
from models.initial import load_initial
from models.losses import SetCriterion
from models.network import Network, Size
from models.predictions import Predictions
from models.relation_tagger import PairQueries
from models.rlip import RLIP
from models.target import Target
from models.text_tokens import LabelTokenizer, TextTokens
from pipeline.training.pairs import TargetPair, detection_pairs, labelled_pairs, normalised_boxes
from pipeline.training.sample import TrainingSample
from pipeline.training.settings import TrainingSettings
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


def network_config(settings: TrainingSettings) -> NetworkConfig:
    """Returns the network configuration of the settings."""
    return NetworkConfig.from_dict(settings.network)


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
        self._config = network_config(settings)
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
