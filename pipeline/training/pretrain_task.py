"""Pre-training: find the pairs of an image and say, in the words of the label texts, what they are and how they relate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from models.losses import SetCriterion
from models.network import Network
from models.rlip import RLIP
from pipeline.training.dataset import Example
from pipeline.training.pairs import detection_pairs
from pipeline.training.settings import TrainingSettings
from pipeline.training.task import StepInputs, full_precision, loss_settings, network_config, start_from
from pipeline.training.texts import Vocabulary


class PretrainTask:
    """RLIPv2 on shards: boxes are always learnt, predicates where an image has some."""

    def __init__(self, settings: TrainingSettings, vocabulary: Vocabulary, tokenizer: Path) -> None:
        self._settings, self._vocabulary, self._tokenizer = settings, vocabulary, tokenizer
        self._criterion = SetCriterion(loss_settings(settings.loss))

    def build(self) -> Network:
        """The network of the settings, from its initial weights where there are some."""
        network = RLIP(network_config(self._settings), self._tokenizer)
        return start_from(network, self._settings.initial, self._tokenizer)

    def losses(
        self, network: Network, examples: Sequence[Example], generator: np.random.Generator
    ) -> dict[str, Tensor]:
        """Set-prediction loss; predictions are matched to pairs."""
        given = StepInputs(network, examples, self._vocabulary, self._settings, generator)
        predictions = full_precision(network(given.images, given.padding, given.objects_TE, given.predicates_TE))
        limit, soft = network.config.pairs, self._settings.soft_targets
        targets = [
            given.texts.target(sample, detection_pairs(sample, limit), soft, given.device) for sample in given.samples
        ]
        losses: dict[str, Tensor] = self._criterion(predictions, targets, given.predicates_TE.float())
        return losses
