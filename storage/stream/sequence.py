"""The one sequence of samples that all ranks of a training run share, and its state (docs/shards.md, Guarantee)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage.errors import FatalError
from storage.shards.sample_map import SampleMap
from storage.stream.order import Drawn, EpochOrder, Interleaving, Mix, OrderSettings, SortKey

FORMAT = 1


class SampleSequence:
    """An endless sequence of samples: a pure function of the map, the seed, the order and the mix.

    A place is the number of samples before it. Batches, ranks and loader processes only divide the sequence.
    """

    def __init__(
        self,
        samples: SampleMap,
        seed: int = 0,
        mix: Mix = Mix(),  # noqa: B008 - frozen
        order: OrderSettings = OrderSettings(),  # noqa: B008 - frozen
        sort_key: SortKey | None = None,
    ) -> None:
        """Raises `FatalError` when there are no samples, or the mix does not fit them."""
        if not len(samples):
            raise FatalError("there are no samples to stream: the shards are empty, or all samples were excluded")
        self.samples, self.seed, self.mix, self.order = samples, seed, mix, order
        ranges = {"": (0, len(samples))} if mix.kind == "concat" else _ranges(samples)
        self._sets = list(ranges)
        self._orders = [EpochOrder(*ends, seed, order, sort_key) for ends in ranges.values()]
        shares = mix.shares({name: last - first for name, (first, last) in ranges.items()})
        self._interleaving = Interleaving(np.array(list(shares.values())), order.run)
        self._origin, self._begun = 0, np.zeros(len(ranges), np.int64)

    def __len__(self) -> int:
        """The number of samples in an epoch."""
        return len(self.samples)

    def draw(self, start: int, stop: int) -> Drawn:
        """Returns the samples at the places `start` to `stop` (excluded).

        Raises `FatalError` for places before a change of the mix, which its new weights say nothing about.
        """
        if start < self._origin:
            raise FatalError(f"place {start} lies before {self._origin}, where the weights of the mix changed")
        if len(self._orders) == 1:
            shift = int(self._begun[0]) - self._origin
            return self._orders[0].draw(start + shift, stop + shift)
        start, stop = start - self._origin, stop - self._origin
        sets, before = self._interleaving.sets(start, stop), self._begun + self._interleaving.counts(start)
        found = Drawn(np.zeros(stop - start, np.int64), np.zeros(stop - start, np.int64))
        for number, order in enumerate(self._orders):
            here = sets == number
            first = int(before[number])
            found.epochs[here], found.samples[here] = order.draw(first, first + int(here.sum()))
        return found

    def state(self, place: int) -> dict[str, Any]:
        """Returns what is needed to resume at a place, as JSON values."""
        begun = dict(zip(self._sets, self._begun.tolist(), strict=True))
        return {
            **self._identity(),
            "place": place,
            "origin": self._origin,
            "begun": begun,
            "mix": self.mix.model_dump(),
        }

    def restore(self, state: Mapping[str, Any]) -> int:
        """Resumes from a state, and returns its place. The weights of the mix may differ from those of the state.

        Raises `FatalError` that names what else differs: the samples, the seed or the order.
        """
        for name, own in self._identity().items():
            if state.get(name) != own:
                raise FatalError(
                    f"the stream can't resume: {_NAMES[name]} {own!r}, but the state is of {state.get(name)!r}; "
                    "restore what it was, or start over"
                )
        place = int(state["place"])
        if place < 0:
            raise FatalError(f"the stream can't resume: the state is at position {place}")
        if state["mix"]["kind"] == self.mix.kind == "concat":
            return place
        if "concat" in (state["mix"]["kind"], self.mix.kind):
            raise FatalError(
                f"the stream can't resume: the mix is {self.mix.kind!r}, but the state is of {state['mix']['kind']!r}, "
                "which uses one order for all datasets; only weights and temperature may change"
            )
        self._origin, self._begun = int(state["origin"]), np.array([state["begun"][name] for name in self._sets])
        if state["mix"] != self.mix.model_dump():
            # Only its interleaving is used, which no sort key changes.
            before = SampleSequence(self.samples, self.seed, Mix(**state["mix"]), self.order)
            self._begun = self._begun + before._interleaving.counts(place - self._origin)
            self._origin = place
        return place

    def _identity(self) -> dict[str, Any]:
        """What determines the sequence."""
        return {"format": FORMAT, "samples": self.samples.fingerprint, "seed": self.seed, "order": asdict(self.order)}


_NAMES = {
    "format": "this version has streams of format",
    "samples": "the samples are",
    "seed": "the seed is",
    "order": "the order is",
}


def _ranges(samples: SampleMap) -> dict[str, tuple[int, int]]:
    """Returns the first sample of each dataset, and the one after its last."""
    sets: NDArray[np.int16] = samples.sets
    begins = np.flatnonzero(np.r_[True, sets[1:] != sets[:-1]])
    names = [samples.datasets[int(sets[begin])] for begin in begins]
    if len(set(names)) != len(names):
        raise FatalError(
            "the shards of a dataset are not contiguous; list all tars of one dataset before those of the next"
        )
    ends = [*begins[1:].tolist(), len(samples)]
    return dict(zip(names, zip(begins.tolist(), ends, strict=True), strict=True))
