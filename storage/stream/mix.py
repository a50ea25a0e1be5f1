"""How the datasets of a stream are mixed (docs/shards.md, Mixing)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from storage.errors import FatalError

LEAST_TEMPERATURE = 0.1
CYCLE = 10_000
"""Runs after which the interleaving of datasets repeats. Shares are exact to one in this number."""


@dataclass(frozen=True)
class Mix:
    """The share of each dataset in a stream."""

    kind: Literal["concat", "proportional", "temperature"] = "concat"
    """concat: one large set, each sample once per epoch (the authors' way). proportional: every stretch of the stream has
    each set in proportion to its size. temperature: in proportion to its size to the power of 1 / `temperature`."""
    temperature: float = 2.0
    """For kind "temperature": 1 is proportional, infinity gives all sets equal shares."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """Dataset → factor of its share, unless the kind is "concat"; 1 where it is left out."""

    def __post_init__(self) -> None:
        if not self.temperature >= LEAST_TEMPERATURE or any(
            not 0 < weight < math.inf for weight in self.weights.values()
        ):
            raise FatalError(
                f"mix: the temperature must be at least {LEAST_TEMPERATURE}, weights finite and above 0; leave a dataset out to "
                "have none of it"
            )
        if self.kind == "concat" and self.weights:
            raise FatalError('mix: weights need kind "proportional" or "temperature"; "concat" takes every sample once')

    def shares(self, sizes: Mapping[str, int]) -> dict[str, float]:
        """Returns each dataset's share of the stream; they sum to 1. Raises `FatalError` for weights of unknown sets."""
        unknown = sorted(self.weights.keys() - sizes.keys())
        if unknown:
            raise FatalError(f"mix: weights name {unknown[0]!r}; the datasets are {', '.join(sizes)}")
        power = 1 / self.temperature if self.kind == "temperature" else 1.0
        parts = {name: size**power * self.weights.get(name, 1.0) for name, size in sizes.items()}
        total = sum(parts.values())
        return {name: part / total for name, part in parts.items()}


class Interleaving:
    """Assigns runs of places to datasets, so that each gets its share of every stretch of the stream."""

    def __init__(self, shares: NDArray[np.float64], run: int) -> None:
        """`run`: places in a row that belong to the same set."""
        self._run = run
        counts = np.floor(shares * CYCLE).astype(np.int64)
        counts[np.argsort(-(shares * CYCLE - counts), kind="stable")[: CYCLE - counts.sum()]] += 1
        # However small its share, each set gets a run of the cycle, at the cost of the largest.
        missing = counts == 0
        counts[missing] = 1
        counts[counts.argmax()] -= missing.sum()
        # The n-th run of a set with c runs belongs at (n + 1/2) / c of the cycle.
        order = np.concatenate([(np.arange(count) + 0.5) / count for count in counts])
        self.cycle = np.repeat(np.arange(len(counts)), counts)[np.argsort(order, kind="stable")]
        taken = np.cumsum(self.cycle[:, None] == np.arange(len(counts)), axis=0)
        self._before = np.concatenate([np.zeros((1, len(counts)), np.int64), taken])

    def counts(self, place: int) -> NDArray[np.int64]:
        """Returns how many of the first `place` places each set has."""
        runs, rest = divmod(place, self._run)
        cycles, inside = divmod(runs, CYCLE)
        found: NDArray[np.int64] = (cycles * self._before[-1] + self._before[inside]) * self._run
        found[self.cycle[inside]] += rest
        return found

    def sets(self, start: int, stop: int) -> NDArray[np.int64]:
        """Returns the set of each place."""
        found: NDArray[np.int64] = self.cycle[(np.arange(start, stop) // self._run) % CYCLE]
        return found
