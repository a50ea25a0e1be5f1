"""A stream of samples for one rank: webdataset's samples, torch's IterableDataset, torchdata's state_dict."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from torch.utils.data import IterableDataset, get_worker_info

from storage.errors import FatalError
from storage.shards.range_cache import RangeCache
from storage.shards.reader import DamagedSample, SampleReader
from storage.shards.sample_map import SampleMap
from storage.stream.mix import Mix
from storage.stream.order import OrderSettings, SortKey
from storage.stream.sequence import SampleSequence

log = logging.getLogger("rlip.stream")
AHEAD = 16
"""Samples of remote tars that are requested ahead."""
MOST_DAMAGED = 0.01


class Skipped:
    """The damaged samples that a stream leaves out, by number, with the reason."""

    def __init__(self, samples: int, most: float) -> None:
        """`most`: largest share of all `samples` that may be damaged."""
        self._samples, self._most = samples, most
        self.reasons: dict[int, str] = {}

    def add(self, sample: int, reason: str) -> None:
        """Notes a sample. Raises `FatalError` when too many are damaged."""
        if sample not in self.reasons:
            log.warning("left out a damaged sample: %s", reason)
            self.reasons[sample] = reason
        if len(self.reasons) > self._most * self._samples:
            raise FatalError(
                f"{len(self.reasons)} of {self._samples} samples are damaged, more than the share of {self._most} that may be; "
                f"the last: {reason}; `rlip shards verify` finds them all"
            )


class Stream(IterableDataset[dict[str, Any]]):
    """Yields the samples of one rank as webdataset does: `__key__`, `__url__`, and the bytes of each member by extension.

    All ranks cut one global sequence. Of the places of a global batch, rank r of R takes those from ⌊r·batch/R⌋ to
    ⌊(r+1)·batch/R⌋, and a loader with several processes gives whole batches to each in turn. Give a loader the `share` as its
    batch size; without processes any batch size gives the same samples.
    """

    def __init__(
        self,
        samples: SampleMap,
        *,
        batch: int = 1,
        rank: int = 0,
        ranks: int = 1,
        epochs: int | None = None,
        seed: int = 0,
        mix: Mix = Mix(),  # noqa: B008 - frozen
        order: OrderSettings = OrderSettings(),  # noqa: B008 - frozen
        sort_key: SortKey | None = None,
        extensions: Sequence[str] | None = None,
        most_damaged: float = MOST_DAMAGED,
        cache: RangeCache | None = None,
    ) -> None:
        """`batch`: samples of a step over all ranks; `epochs`: where the stream ends, None: never; `extensions`: the members
        to read, None: all; `most_damaged`: share of samples that may be damaged and left out.

        Raises `FatalError` for a stream that would give a rank nothing.
        """
        super().__init__()
        if not 0 <= rank < ranks <= batch:
            raise FatalError(
                f"rank {rank} of {ranks} can't share batches of {batch}; give each rank at least one sample"
            )
        self.sequence = SampleSequence(samples, seed, mix, order, sort_key)
        self.batch, self.rank, self.ranks = batch, rank, ranks
        self.skipped = Skipped(len(samples), most_damaged)
        self._reader = SampleReader(samples, cache)
        self._extensions = extensions
        self._start, self._end = 0, None if epochs is None else epochs * len(samples)
        self._given, self._workers, self._resumed = 0, 0, 0

    @property
    def share(self) -> int:
        """Samples of a batch that this rank takes."""
        first, last = self._cut(0, self.batch)
        return last - first

    def __len__(self) -> int:
        """Samples that this rank takes from here to the end; of a stream without an end, in one epoch."""
        end = self._start + len(self.sequence) if self._end is None else self._end
        whole, rest = divmod(max(0, end - self._start), self.batch)
        first, last = self._cut(0, self.batch)
        return whole * (last - first) + max(0, min(rest, last) - first)

    def set_epoch(self, epoch: int) -> None:
        """Makes the stream that of one epoch."""
        self._start, self._end = epoch * len(self.sequence), (epoch + 1) * len(self.sequence)
        self._given = self._resumed = 0

    def state_dict(self) -> dict[str, Any]:
        """Returns the state of this process, which goes on with the same ranks and loader processes."""
        return self._state(self._start) | {"given": self._given, "workers": self._workers}

    def state_after(self, batches: int) -> dict[str, Any]:
        """Returns the state after that many whole batches, which any number of ranks and loader processes can go on from."""
        return self._state(self._start + batches * self.batch) | {"given": 0, "workers": 0}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a state. Batch size, number of ranks and weights of the mix may have changed in `state_after` states.

        Raises `FatalError` at once when samples, seed or order differ, or a tar is missing or too short.
        """
        self._reader.require_tars()
        self._start = self.sequence.restore(state)
        self._given, self._workers = int(state["given"]), int(state["workers"])
        self._resumed = self._given
        if self._given and (state["batch"], state["rank"], state["ranks"]) != (self.batch, self.rank, self.ranks):
            raise FatalError(
                "the state is of another rank, number of ranks or batch, within a batch; save `state_after` to change them"
            )
        for sample, reason in state["skipped"].items():
            self.skipped.reasons[int(sample)] = reason

    def __iter__(self) -> Iterator[dict[str, Any]]:
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        if self._resumed and self._workers != workers:
            raise FatalError(
                f"the state is of {self._workers} loader processes, but there are {workers}; save `state_after` to change them"
            )
        # As with any dataset of torch, a second pass begins anew, unless a state was loaded for it.
        self._given, self._resumed, self._workers = self._resumed, 0, workers
        samples = self.sequence.samples
        for sample, members in self._read(self._places(worker, workers)):
            self._given += 1
            if isinstance(members, DamagedSample):
                self.skipped.add(sample, str(members))
            elif members is not None:
                yield {"__key__": samples.key(sample), "__url__": samples.tars[samples.shard(sample)], **members}

    def _places(self, worker: int, workers: int) -> Iterator[int]:
        """Yields the samples that this process has still to give."""
        batches, given = divmod(self._given, self.share)
        while True:
            start = self._start + (batches * workers + worker) * self.batch
            stop = start + self.batch if self._end is None else min(start + self.batch, self._end)
            if start >= stop:
                return
            first, last = self._cut(start, stop)
            yield from self.sequence.draw(first, last).samples[given:].tolist() if first < last else ()
            batches, given = batches + 1, 0

    def _cut(self, start: int, stop: int) -> tuple[int, int]:
        """Returns this rank's part of the batch that begins at `start`, no further than `stop`."""
        first, last = (start + self.batch * part // self.ranks for part in (self.rank, self.rank + 1))
        return min(first, stop), min(last, stop)

    def _read(self, places: Iterator[int]) -> Iterator[tuple[int, dict[str, bytes] | DamagedSample | None]]:
        """Yields each sample with its members, the damage, or None if it is known to be damaged."""
        if not any("://" in tar for tar in self.sequence.samples.tars):
            for sample in places:
                yield sample, self._members(sample)
            return
        with ThreadPoolExecutor(AHEAD) as pool:
            pending: deque[tuple[int, Future[dict[str, bytes] | DamagedSample | None]]] = deque()
            for sample in places:
                pending.append((sample, pool.submit(self._members, sample)))
                if len(pending) == AHEAD:
                    first, future = pending.popleft()
                    yield first, future.result()
            for first, future in pending:
                yield first, future.result()

    def _members(self, sample: int) -> dict[str, bytes] | DamagedSample | None:
        if sample in self.skipped.reasons:
            return None
        try:
            return self._reader.read(sample, self._extensions)
        except DamagedSample as damage:
            return damage

    def _state(self, place: int) -> dict[str, Any]:
        own = {"batch": self.batch, "rank": self.rank, "ranks": self.ranks}
        return self.sequence.state(place) | own | {"skipped": {str(n): r for n, r in self.skipped.reasons.items()}}
