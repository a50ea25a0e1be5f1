"""One process of a pre-training run that is evaluated while it runs.

Training code knows nothing of evaluation; this stage knows both.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from models.network import Network
from pipeline.evaluation.detection import Detections
from pipeline.evaluation.predictor import Predictor
from pipeline.evaluation.relations import Relations
from pipeline.evaluation.test_set import ScoredImage, TestSet
from pipeline.training import worker
from pipeline.training.config import TrainConfig
from pipeline.training.ranks import Arrays, Ranks
from storage.tables import read_table


class ZeroShotCheck:
    """Scores the network on the first images of the test sets every `evaluate_every` steps."""

    def __init__(self, config: TrainConfig) -> None:
        assert config.test is not None
        self._settings = config.settings
        images = pa.concat_tables([read_table(path) for path in config.test.tables])
        self._test = TestSet(images.slice(0, config.settings.evaluate_images).to_pylist(), config.test.folders)

    def is_due(self, step: int, total: int) -> bool:
        """Whether `step` is a multiple of `evaluate_every`."""
        every = self._settings.evaluate_every
        return every is not None and step % every == 0

    def measure(self, network: Network, is_last: bool, ranks: Ranks) -> Mapping[str, float]:
        """Returns zero_shot_map and the other scores, equal in all processes."""
        own = range(ranks.rank, len(self._test.rows), ranks.count)
        size, batch = self._settings.whole_size, self._settings.micro_batch
        predictor = Predictor(network, self._test.names, size)
        found = self._test.predict(predictor, batch, lambda done, total, note="": None, own)
        every = ranks.every({position: _arrays(ScoredImage.of(position, each)) for position, each in found})
        # Predicting has put it into evaluation mode.
        network.train()
        scores: Mapping[str, float] = self._test.scores(_scored(position, arrays) for position, arrays in every.items())
        return scores


def _arrays(scored: ScoredImage) -> dict[str, NDArray[Any]]:
    parts = {"relations": scored.relations, "boxes": scored.boxes}
    every = {f"{part}.{name}": array for part, held in parts.items() for name, array in vars(held).items()}
    return {name: array for name, array in every.items() if isinstance(array, np.ndarray)}


def _scored(position: int, arrays: Arrays) -> ScoredImage:
    relations, boxes = (
        {name.removeprefix(part): array for name, array in arrays.items() if name.startswith(part)}
        for part in ("relations.", "boxes.")
    )
    return ScoredImage(position, Relations(images=1, **relations), Detections(**boxes))


def main(path: Path) -> int:
    """Trains as the configuration says. Returns the exit code."""
    return worker.main(path, ZeroShotCheck)
