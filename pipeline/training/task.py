"""The interface between the training loop and what it trains, the inputs of a step, and the pre-training task."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from models.config import NO_OBJECTS, NetworkConfig
from models.losses import SetCriterion
from models.network import Network
from models.predictions import Predictions
from models.rlip import RLIP
from models.target import Target
from pipeline.training.batches import Batch
from pipeline.training.pairs import TargetPair, detection_pairs, labelled_pairs, normalised_boxes
from pipeline.training.sample import TrainingSample
from pipeline.training.settings import TrainingSettings
from pipeline.training.vocabulary import Vocabulary, index_by_name


class Task(Protocol):
    """A network and its loss on the batch of one process and step."""

    def build(self) -> Network:
        """Builds a new network. Random weights come from torch's current generator."""
        ...

    def losses(self, network: Network, batch: Batch, generator: np.random.Generator) -> dict[str, Tensor]:
        """Returns scalars by name, including the total `loss`. All randomness comes from `generator` or from torch's."""
        ...


class StepTexts:
    """The object and predicate texts of one step."""

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

    def encode(self, network: Network) -> tuple[Tensor, Tensor]:
        """Returns the features of the object texts and of the predicate texts."""
        features = network.encode_texts([*self.objects, *self.predicates])
        return features[: len(self.objects)], features[len(self.objects) :]

    def target(self, sample: TrainingSample, pairs: Sequence[TargetPair], soft: bool, device: torch.device) -> Target:
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
        columns = (labels[subject], labels[object_], boxes[subject], boxes[object_], predicates, known)
        return Target(*(column.to(device) for column in columns))


class StepInputs:
    """The inputs of a network in one step: images B×3×H×W with padding B×H×W, and text features."""

    def __init__(
        self,
        network: Network,
        batch: Batch,
        vocabulary: Vocabulary,
        settings: TrainingSettings,
        generator: np.random.Generator,
    ) -> None:
        self.samples = batch.samples
        self.texts = StepTexts(vocabulary, settings, self.samples, generator)
        self.objects_TE, self.predicates_TE = self.texts.encode(network)
        self.device = self.objects_TE.device
        self.images, self.padding = batch.images(self.device)


def full_precision(predictions: Predictions) -> Predictions:
    """Converts predictions to float32, which losses and matching need, whatever the network computed in."""
    tensors = {name: value.float() for name, value in vars(predictions).items() if isinstance(value, Tensor)}
    return Predictions(**tensors, auxiliary=[full_precision(layer) for layer in predictions.auxiliary])


def network_config(settings: TrainingSettings) -> NetworkConfig:
    """Returns the network configuration of the settings."""
    return NetworkConfig.from_dict(settings.network)


def start_from(network: Network, initial: Path | None, tokenizer: Path) -> Network:
    """Loads the weights of a file into the network, if one is given. Raises ValueError when a shape differs."""
    if initial is None:
        return network
    from models.weights import load

    state = load(initial, tokenizer).state_dict()
    own = network.state_dict()
    unfit = [name for name in own if name in state and state[name].shape != own[name].shape]
    if unfit:
        raise ValueError(
            f"initial = {initial}: {unfit[0]} has shape {tuple(state[unfit[0]].shape)}, but the network has "
            f"{tuple(own[unfit[0]].shape)}; use weights of the same sizes, or change `network`"
        )
    network.load_state_dict({name: state.get(name, value) for name, value in own.items()})
    return network


class PretrainTask:
    """Trains RLIPv2 on shards. It learns boxes from every image, and predicates from images that have relations."""

    def __init__(self, settings: TrainingSettings, vocabulary: Vocabulary, tokenizer: Path) -> None:
        self._settings, self._vocabulary, self._tokenizer = settings, vocabulary, tokenizer
        self._criterion = SetCriterion(settings.loss)

    def build(self) -> Network:
        """Builds the network of the settings, with its initial weights where the settings name some."""
        network = RLIP(network_config(self._settings), self._tokenizer)
        return start_from(network, self._settings.initial, self._tokenizer)

    def losses(self, network: Network, batch: Batch, generator: np.random.Generator) -> dict[str, Tensor]:
        """Computes the set-prediction loss, with predictions matched to pairs."""
        given = StepInputs(network, batch, self._vocabulary, self._settings, generator)
        predictions = full_precision(network(given.images, given.padding, given.objects_TE, given.predicates_TE))
        limit, soft = network.config.pairs, self._settings.soft_targets
        pairs = [
            detection_pairs(sample, limit) if self._settings.self_pairs else labelled_pairs(sample)[:limit]
            for sample in given.samples
        ]
        targets = [
            given.texts.target(sample, of_sample, soft, given.device)
            for sample, of_sample in zip(given.samples, pairs, strict=True)
        ]
        losses: dict[str, Tensor] = self._criterion(predictions, targets, given.predicates_TE.float())
        return losses
