"""When a tagger is measured on its held-out images, and where its calibration goes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from models.network import Network
from pipeline.training.sources import Source
from pipeline.training.tagger_check import MOST_IMAGES, MOST_IMAGES_BETWEEN, check_tagger
from pipeline.training.tagger_settings import CALIBRATION, TaggerSettings
from pipeline.training.texts import Vocabulary
from storage.atomic import write_atomic
from tagger.audit.labels import SYMMETRIC


@dataclass(frozen=True)
class HeldOut:
    """Images that the tagger is measured on every `check_every` steps, and after the last one calibrated with."""

    images: Source
    vocabulary: Vocabulary
    settings: TaggerSettings
    device: torch.device
    work: Path

    def __call__(self, network: Network, step: int, total: int) -> Mapping[str, float]:
        """What was measured after this step; nothing where it is not due."""
        last = step == total
        if not len(self.images) or not (last or step % self.settings.check_every == 0):
            return {}
        most = MOST_IMAGES if last else MOST_IMAGES_BETWEEN
        found = check_tagger(network, self.images, self.vocabulary, self.settings, self.device, SYMMETRIC, most)
        if last:
            write_atomic(self.work / CALIBRATION, found.calibration.to_json())
        return found.scores
