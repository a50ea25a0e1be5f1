"""Selects the samples of each step as a pure function of seed and step, so that resuming needs no state."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np


class Place(NamedTuple):
    """The position of a sample in its source, and the epoch that it is drawn in."""

    position: int
    epoch: int


class StepSampler:
    """Draws every sample once per epoch, in random order. A step may straddle the end of an epoch."""

    def __init__(self, samples: int, batch: int, seed: int) -> None:
        if samples < 1:
            raise ValueError("StepSampler: samples must be at least 1")
        self._samples, self._batch, self._seed = samples, batch, seed
        self._shuffled: tuple[int, np.ndarray] | None = None

    def steps(self, epochs: int) -> int:
        """Returns the number of steps in `epochs` epochs."""
        return -(-epochs * self._samples // self._batch)

    def step(self, step: int, rank: int = 0, ranks: int = 1) -> list[Place]:
        """Returns the samples of a step for one of `ranks` processes. The shares of all ranks in order make up the step."""
        first, last = (self._batch * part // ranks for part in (rank, rank + 1))
        return [self._place(step * self._batch + item) for item in range(first, last)]

    def _place(self, number: int) -> Place:
        epoch, place = divmod(number, self._samples)
        if self._shuffled is None or self._shuffled[0] != epoch:
            generator = np.random.default_rng(stable_seed("order", self._seed, epoch))
            self._shuffled = (epoch, generator.permutation(self._samples))
        return Place(int(self._shuffled[1][place]), epoch)


def stable_seed(*parts: str | int) -> int:
    """Derives a 63-bit seed from names and numbers. It is the same in every process and on every machine."""
    digest = hashlib.sha256("\0".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
