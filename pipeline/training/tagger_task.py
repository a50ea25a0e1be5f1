"""Trains the Relation Tagger: it gets the boxes and labels of pairs, with noise, and predicts their predicates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.losses import TaggerCriterion
from models.network import Network, Size
from models.predictions import Predictions
from models.relation_tagger import PairQueries, RelationTagger
from models.target import Target
from models.text_tokens import LabelTokenizer
from pipeline.training.pairs import tagging_pairs
from pipeline.training.sample import TrainingSample
from pipeline.training.settings import TaggerSettings
from pipeline.training.task import Draws, StepInputs, StepTexts, network_config, start_from
from pipeline.training.vocabulary import Vocabulary


class TaggerTask:
    """Trains the R-Tagger on images with given relations. Pairs without a relation are negatives."""

    def __init__(self, settings: TaggerSettings, vocabulary: Vocabulary, tokenizer: Path) -> None:
        self._settings, self._vocabulary, self._folder = settings, vocabulary, tokenizer
        self._config = network_config(settings)
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
    """Returns from how many first object names wrong labels are drawn: all. The authors read the images axis by mistake."""
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
