"""The order of samples as a pure function of seed and epoch, and how datasets are mixed (docs/shards.md, Order,
Mixing)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Annotated, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from storage.errors import FatalError

Samples = NDArray[np.int64]
SortKey = Callable[[int, Samples], NDArray[np.int64]]
"""Maps an epoch and samples to numbers. Samples with near numbers share a run, e.g. images of one size."""


@dataclass(frozen=True)
class OrderSettings:
    """How far samples are moved from their places in the shards. All of it is part of the order."""

    block: int = Field(default=64, ge=1)
    """Neighbouring samples that move together, so that samples read at about the same time lie close together."""
    window: int = Field(default=64, ge=1)
    """Blocks whose samples are shuffled among each other."""
    run: int = Field(default=1, ge=1)
    """Samples in a row whose sort keys are near to each other. 1: no sorting."""
    sorted_by: str = ""
    """Names the sort key, since a function can't be compared with that of an earlier process."""


class Drawn(NamedTuple):
    """Samples, and the epoch that each is drawn in."""

    epochs: NDArray[np.int64]
    samples: Samples


class EpochOrder:
    """Draws each of the samples `first` to `last` once per epoch, endlessly.

    An epoch permutes blocks of neighbouring samples, then shuffles the samples of each window of blocks. Any place of
    the order is found at the same cost: the permutation of blocks, and one window.
    """

    def __init__(
        self, first: int, last: int, seed: int, settings: OrderSettings, sort_key: SortKey | None = None
    ) -> None:
        """`last` is excluded. Raises ValueError when there is no sample."""
        if last <= first:
            raise ValueError("an order needs at least one sample")
        self.first, self.last = first, last
        self._seed, self._settings, self._sort_key = seed, settings, sort_key
        self._blocks: tuple[int, NDArray[np.int64], NDArray[np.int64]] | None = None
        self._window: tuple[int, int, Samples] | None = None

    def __len__(self) -> int:
        return self.last - self.first

    def draw(self, start: int, stop: int) -> Drawn:
        """Returns what the places `start` to `stop` (excluded) hold, counted from the beginning of epoch 0."""
        nothing: Samples = np.zeros(0, np.int64)
        epochs, samples = [nothing], [nothing]
        while start < stop:
            epoch, place = divmod(start, len(self))
            begins = self._permuted(epoch)[1]
            window = int(np.searchsorted(begins, place, "right")) - 1
            shuffled = self._shuffled(epoch, window)
            inside = place - int(begins[window])
            part = shuffled[inside : inside + stop - start]
            epochs.append(np.full(len(part), epoch))
            samples.append(part)
            start += len(part)
        return Drawn(np.concatenate(epochs), np.concatenate(samples))

    def _permuted(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Returns the blocks of an epoch in order, and the place where each window begins."""
        if self._blocks is None or self._blocks[0] != epoch:
            size = self._settings.block
            blocks = _generator("blocks", self._seed, epoch).permutation(-(-len(self) // size))
            sizes = np.minimum(size, len(self) - blocks * size)
            begins = (np.cumsum(sizes) - sizes)[:: self._settings.window]
            self._blocks = epoch, blocks, begins
        return self._blocks[1:]

    def _shuffled(self, epoch: int, window: int) -> Samples:
        if self._window is None or self._window[:2] != (epoch, window):
            count, size = self._settings.window, self._settings.block
            chosen = self._permuted(epoch)[0][window * count : (window + 1) * count]
            places = (chosen[:, None] * size + np.arange(size)).reshape(-1)
            samples = self.first + places[places < len(self)]
            generator = _generator("window", self._seed, epoch, window)
            samples = generator.permutation(samples)
            if self._sort_key is not None and self._settings.run > 1:
                samples = samples[np.argsort(self._sort_key(epoch, samples), kind="stable")]
                samples = self._in_runs(samples, epoch * len(self) + int(self._permuted(epoch)[1][window]), generator)
            self._window = epoch, window, samples
        return self._window[2]

    def _in_runs(self, samples: Samples, place: int, generator: np.random.Generator) -> Samples:
        """Shuffles the runs of sorted samples that begin at a place of the whole order.

        Runs begin at multiples of their length, so that a batch whose size divides it lies within one.
        """
        run = self._settings.run
        lead = -place % run
        whole = lead + max(0, len(samples) - lead) // run * run
        runs = generator.permutation(samples[lead:whole].reshape(-1, run))
        return np.concatenate([samples[:lead], runs.reshape(-1), samples[whole:]])


def stable_seed(*parts: str | int) -> int:
    """Derives a 63-bit seed from names and numbers. It is the same in every process and on every machine."""
    digest = hashlib.sha256("\0".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def uniforms(seed: int, epoch: int, identities: NDArray[np.uint64], count: int) -> NDArray[np.float64]:
    """Returns N×`count` numbers in [0, 1) that follow from seed, epoch and each sample's identity alone
    (SplitMix64)."""
    with np.errstate(over="ignore"):
        # SplitMix64 multiplies modulo 2**64. A double holds 53 bits, so the upper 53 are taken.
        own = _mixed(identities ^ np.uint64(stable_seed("uniforms", seed, epoch)))
        steps = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        return (_mixed(own[:, None] + steps) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _generator(*parts: str | int) -> np.random.Generator:
    return np.random.default_rng(stable_seed(*parts))


CYCLE = 10_000
"""Runs after which the interleaving of datasets repeats. Shares are exact to one in this number."""


class Mix(BaseModel):
    """How several datasets are mixed."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    kind: Literal["concat", "proportional", "temperature"] = "concat"
    """concat (authors): one large dataset, each image once per epoch. proportional: at all times, images of each
    dataset in proportion to its size. temperature: in proportion to its size to the power of 1 / `temperature`."""
    temperature: float = Field(2.0, ge=0.1)
    """1 is proportional; the higher, the more equal the shares of datasets."""
    weights: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field({})
    """Dataset → factor of its share, unless the kind is "concat"; 1 by default."""

    @model_validator(mode="after")
    def _has_no_useless_weights(self) -> Self:
        if self.kind == "concat" and self.weights:
            raise ValueError('weights: "concat" uses every image once; choose kind "proportional" or "temperature"')
        return self

    def shares(self, sizes: Mapping[str, int]) -> dict[str, float]:
        """Returns each dataset's share of the stream; they sum to 1. Raises `FatalError` for unknown ones."""
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
        """`run`: places in a row that belong to the same dataset."""
        self._run = run
        counts = np.floor(shares * CYCLE).astype(np.int64)
        # The largest remainders are rounded up, so that the counts sum to the cycle.
        counts[np.argsort(-(shares * CYCLE - counts), kind="stable")[: CYCLE - counts.sum()]] += 1
        # However small its share, each dataset gets a run of the cycle, at the cost of the largest.
        missing = counts == 0
        counts[missing] = 1
        counts[counts.argmax()] -= missing.sum()
        # The n-th run of a dataset with c runs belongs at (n + 1/2) / c of the cycle.
        order = np.concatenate([(np.arange(count) + 0.5) / count for count in counts])
        self.cycle = np.repeat(np.arange(len(counts)), counts)[np.argsort(order, kind="stable")]
        taken = np.cumsum(self.cycle[:, None] == np.arange(len(counts)), axis=0)
        self._before = np.concatenate([np.zeros((1, len(counts)), np.int64), taken])

    def counts(self, place: int) -> NDArray[np.int64]:
        """Returns how many of the first `place` places each dataset has."""
        runs, rest = divmod(place, self._run)
        cycles, inside = divmod(runs, CYCLE)
        found: NDArray[np.int64] = (cycles * self._before[-1] + self._before[inside]) * self._run
        found[self.cycle[inside]] += rest
        return found

    def sets(self, start: int, stop: int) -> NDArray[np.int64]:
        """Returns the dataset of each place."""
        found: NDArray[np.int64] = self.cycle[(np.arange(start, stop) // self._run) % CYCLE]
        return found
