"""Trains the Relation Tagger: it gets the boxes and labels of pairs, with noise, and predicts their predicates."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.losses import TaggerCriterion
from models.network import Network
from models.relation_tagger import PairQueries, RelationTagger
from models.target import Target
from pipeline.training.batches import Batch
from pipeline.training.pairs import tagging_pairs
from pipeline.training.settings import TaggerSettings
from pipeline.training.task import StepInputs, full_precision, network_config, start_from
from pipeline.training.vocabulary import Vocabulary


class TaggerTask:
    """Trains the R-Tagger on images with given relations. Pairs without a relation are negatives."""

    def __init__(self, settings: TaggerSettings, vocabulary: Vocabulary, tokenizer: Path) -> None:
        self._settings, self._vocabulary, self._tokenizer = settings, vocabulary, tokenizer
        self._criterion = TaggerCriterion(settings.loss)

    def build(self) -> Network:
        """Builds the network of the settings, with its initial weights where the settings name some."""
        network = RelationTagger(network_config(self._settings), self._tokenizer)
        return start_from(network, self._settings.initial, self._tokenizer)

    def losses(self, network: Network, batch: Batch, generator: np.random.Generator) -> dict[str, Tensor]:
        """Computes the loss by position: the i-th prediction belongs to the i-th pair."""
        given = StepInputs(network, batch, self._vocabulary, self._settings, generator)
        limit, soft = network.config.pairs, self._settings.soft_targets
        targets = [
            given.texts.target(sample, tagging_pairs(sample, limit, generator), soft, given.device)
            for sample in given.samples
        ]
        names = names_for_noise(len(given.texts.objects) - 1, len(batch.samples), network.config.official_compat)
        queries = add_noise(pair_queries(targets), self._settings, names, generator)
        scored = network(given.images, given.padding, given.objects_TE, given.predicates_TE, queries)
        losses: dict[str, Tensor] = self._criterion(full_precision(scored), targets)
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


def add_noise(
    queries: PairQueries, settings: TaggerSettings, names: int, generator: np.random.Generator
) -> PairQueries:
    """Moves and scales boxes and replaces labels at random. `names`: number of object texts to draw labels from."""

    def moved(boxes: Tensor) -> Tensor:
        drawn = torch.from_numpy(generator.uniform(-1, 1, boxes.shape).astype(np.float32)).to(boxes.device)
        scale = torch.tensor([0.5, 0.5, 1.0, 1.0], device=boxes.device) * settings.box_noise
        return (boxes + drawn * boxes[..., 2:].repeat(1, 1, 2) * scale).clamp(0, 1)

    def replaced(labels: Tensor) -> Tensor:
        drawn = torch.from_numpy(generator.integers(0, names, labels.shape)).to(labels.device)
        chosen = torch.from_numpy(generator.random(labels.shape) < settings.label_noise).to(labels.device)
        return torch.where(chosen, drawn, labels)

    return PairQueries(
        subject_boxes=moved(queries.subject_boxes),
        object_boxes=moved(queries.object_boxes),
        subject_labels=replaced(queries.subject_labels),
        object_labels=replaced(queries.object_labels),
        valid=queries.valid,
    )
