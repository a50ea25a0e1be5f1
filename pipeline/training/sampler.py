"""Which samples a step trains on: a pure function of seed and step, so that resuming needs no state."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np


class Place(NamedTuple):
    """A sample's position in its source and the epoch in which it comes."""

    position: int
    epoch: int


class StepSampler:
    """Each epoch is a permutation of all samples; steps run on across its end, so every sample comes once an epoch."""

    def __init__(self, samples: int, batch: int, seed: int) -> None:
        if samples < 1:
            raise ValueError("an order needs at least one sample")
        self._samples, self._batch, self._seed = samples, batch, seed
        self._shuffled: tuple[int, np.ndarray] | None = None

    def steps(self, epochs: int) -> int:
        """Steps that `epochs` epochs take."""
        return -(-epochs * self._samples // self._batch)

    def step(self, step: int, rank: int = 0, ranks: int = 1) -> list[Place]:
        """The share of one of `ranks` processes in a step's samples; together the shares are the step, in order."""
        first, last = (self._batch * part // ranks for part in (rank, rank + 1))
        return [self._place(step * self._batch + item) for item in range(first, last)]

    def _place(self, number: int) -> Place:
        epoch, place = divmod(number, self._samples)
        if self._shuffled is None or self._shuffled[0] != epoch:
            generator = np.random.default_rng(stable_seed("order", self._seed, epoch))
            self._shuffled = (epoch, generator.permutation(self._samples))
        return Place(int(self._shuffled[1][place]), epoch)


def stable_seed(*parts: str | int) -> int:
    """A 63-bit seed from names and numbers, the same in every process and on every machine."""
    digest = hashlib.sha256("\0".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
