"""One process of a pre-training that is evaluated while it goes on.

Training runs know nothing of evaluations; a stage knows both.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa

from models.network import Network
from pipeline.evaluation.test_set import Scored, TestSet
from pipeline.training import worker
from pipeline.training.config import TrainConfig
from pipeline.training.ranks import Ranks
from storage.tables import read_table


class ZeroShotCheck:
    """Scores the network on the first images of the test sets every `evaluate_every` steps."""

    def __init__(self, config: TrainConfig) -> None:
        assert config.test is not None
        self._settings = config.settings
        rows = pa.concat_tables([read_table(path) for path in config.test.tables]).to_pylist()
        self._test = TestSet(rows[: config.settings.evaluate_images], config.test.folders)

    def is_due(self, step: int, total: int) -> bool:
        """Every `evaluate_every` steps."""
        every = self._settings.evaluate_every
        return every is not None and step % every == 0

    def measure(self, network: Network, is_last: bool, ranks: Ranks) -> Mapping[str, float]:
        """Returns zero_shot_map and the others, the same in all processes."""
        own = range(ranks.rank, len(self._test.rows), ranks.count)
        size, batch = self._settings.whole_size, self._settings.micro_batch
        found = self._test.predict(network, size, None, batch, lambda done, total, note="": None, own)
        every_one = ranks.every({position: Scored.of(position, each) for position, each in found})
        network.train()
        scores: Mapping[str, float] = self._test.scores(every_one.values())
        return scores


def main(path: Path) -> int:
    """Trains as the configuration says. Returns the exit code."""
    return worker.main(path, ZeroShotCheck)
