"""A stream of samples for one rank: webdataset's samples, torch's IterableDataset, torchdata's state_dict."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from torch.utils.data import IterableDataset, get_worker_info

from storage.errors import FatalError
from storage.shards.reader import DamagedSample, RangeCache, SampleReader
from storage.shards.sample_map import SampleMap
from storage.stream.order import Mix, OrderSettings, SortKey
from storage.stream.sequence import SampleSequence

log = logging.getLogger("rlip.stream")
PREFETCH = 16
"""Number of samples that are requested ahead from remote tars."""
MAX_DAMAGED = 0.01
_Found = dict[str, bytes] | DamagedSample | None
"""The members of a sample, the damage, or None if it is known to be damaged."""


class Skipped:
    """The damaged samples that a stream skips, by number, with the reason."""

    def __init__(self, samples: int, most: float) -> None:
        """`most`: largest share of all `samples` that may be damaged."""
        self._samples, self._most = samples, most
        self.reasons: dict[int, str] = {}

    def add(self, found: Mapping[int, str]) -> None:
        """Notes damaged samples. Raises `FatalError` when too many are."""
        for sample, reason in found.items():
            if sample not in self.reasons:
                log.warning("skipped a damaged sample: %s", reason)
                self.reasons[sample] = reason
        if found and len(self.reasons) > self._most * self._samples:
            raise FatalError(
                f"{len(self.reasons)} of {self._samples} samples are damaged, more than max_damaged = {self._most} "
                f"allows; the last: {list(found.values())[-1]}; `rlip shards verify` finds them all"
            )

    def restore(self, state: Mapping[str, str]) -> None:
        """Adds the samples that an earlier process skipped, as `as_state` returned them."""
        self.reasons |= {int(sample): reason for sample, reason in state.items()}

    def as_state(self) -> dict[str, str]:
        """Returns the skipped samples as JSON values."""
        return {str(sample): reason for sample, reason in sorted(self.reasons.items())}


@dataclass(frozen=True)
class StreamBatch:
    """A rank's part of a global batch: webdataset's samples, and the damaged ones that were skipped."""

    samples: list[dict[str, Any]] = field(default_factory=list)
    damaged: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Place:
    """Where a pass is."""

    start: int
    """The place of the sequence at which the pass began."""
    taken: int = 0
    """Samples that this process has taken since `start`, damaged ones included."""
    resumed: int = 0
    """How many of them were taken before the pass was resumed."""
    workers: int = 0
    """The number of loader processes that share the batches."""


class Stream(IterableDataset[dict[str, Any]]):
    """Yields the samples of one rank as webdataset does: `__key__`, `__url__`, and each member's bytes by extension.

    All ranks share one global sequence. Of the places of a global batch, rank r of R takes those from ⌊r·batch/R⌋ to
    ⌊(r+1)·batch/R⌋. Loaders take `batches()`, which gives whole batches to each of their processes in turn.

    A pass begins at the beginning of the stream, as with any dataset of torch, or where a loaded state says.
    """

    def __init__(
        self,
        samples: SampleMap,
        *,
        batch: int = 1,
        rank: int = 0,
        ranks: int = 1,
        first: int = 0,
        epochs: int | None = None,
        seed: int = 0,
        mix: Mix = Mix(),  # noqa: B008 - frozen
        order: OrderSettings = OrderSettings(),  # noqa: B008 - frozen
        sort_key: SortKey | None = None,
        extensions: Sequence[str] | None = None,
        max_damaged: float = MAX_DAMAGED,
        cache: RangeCache | None = None,
    ) -> None:
        """`batch`: samples of a step over all ranks; `first`: the place in the sequence where the stream begins;
        `epochs`: where it ends, None: never; `extensions`: the members to read, None: all; `max_damaged`: share of the
        samples that each process may find damaged.

        Raises `FatalError` for a stream that would give a rank nothing, and for a local tar missing or too short.
        """
        super().__init__()
        if not 0 <= rank < ranks <= batch:
            raise FatalError(
                f"rank {rank} of {ranks} can't share batches of {batch}; give each rank at least one sample"
            )
        self.sequence = SampleSequence(samples, seed, mix, order, sort_key)
        self.batch, self.rank, self.ranks = batch, rank, ranks
        self.skipped = Skipped(len(samples), max_damaged)
        self._reader = SampleReader(samples, cache)
        self._reader.require_tars()
        self._extensions = extensions
        self._end = None if epochs is None else epochs * len(samples)
        self._first = self._at = _Place(first)
        self._loaded: _Place | None = None

    @property
    def share(self) -> int:
        """Samples of a whole batch that this rank takes."""
        first, last = self._own_part(0, self.batch)
        return last - first

    def __len__(self) -> int:
        """Samples that the next pass takes; of a stream without an end, those of one epoch."""
        at = self._loaded or self._first
        end = at.start + len(self.sequence) if self._end is None else self._end
        whole, rest = divmod(max(0, end - at.start), self.batch)
        first, _ = self._own_part(0, self.batch)
        return max(0, whole * self.share + max(0, min(rest, first + self.share) - first) - at.taken)

    def batches(self) -> Batches:
        """Returns the same stream as whole batches, for loaders with `batch_size=None`."""
        return Batches(self)

    def state_dict(self) -> dict[str, Any]:
        """Returns the state of this process, even mid-batch. The same ranks and loader processes resume from it.

        Torchdata's StatefulDataLoader asks each process for it. With torch's own DataLoader, save `state_after`.
        """
        return self._state(self._loaded or self._at)

    def state_after(self, batches: int, damaged: Mapping[int, str] | None = None) -> dict[str, Any]:
        """Returns the state after whole batches of this pass. Any number of ranks and loader processes, and any batch
        size, resumes from it.

        `damaged`: the samples that the batches of loader processes skipped. A batch during which the pass began counts.
        """
        at = self._loaded or self._at
        place = at.start + (at.resumed // self.share + batches) * self.batch
        place = place if self._end is None else min(place, self._end)
        state = self._state(_Place(place))
        state["skipped"] |= {str(sample): reason for sample, reason in (damaged or {}).items()}
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resumes from a state. Batch size, number of ranks and mix weights may have changed in `state_after` states.

        Raises `FatalError` at once when samples, seed or order differ, the state is beyond the end of the stream, or
        a local tar is missing or too short.
        """
        self._reader.require_tars()
        start = self.sequence.restore(state)
        if self._end is not None and start > self._end:
            raise FatalError(
                f"the state is at position {start}, past the end of the stream at {self._end}; raise `epochs`"
            )
        taken = int(state.get("given", 0))
        own = {"batch": self.batch, "rank": self.rank, "ranks": self.ranks, "mix": self.sequence.mix.model_dump()}
        if taken and any(state[name] != value for name, value in own.items()):
            raise FatalError(
                "the state is from a different rank, number of ranks, batch or mix, within a pass; save `state_after` "
                "to change them"
            )
        self._at = self._loaded = _Place(start, taken, taken, int(state.get("workers", 0)))
        self.skipped.restore(state.get("skipped", {}))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for sample, members, _ in self._pass():
            if isinstance(members, DamagedSample):
                self.skipped.add({sample: str(members)})
            elif members is not None:
                yield self._named(sample, members)

    def _pass(self) -> Iterator[tuple[int, _Found, bool]]:
        """Yields each sample, what was found of it, and whether it is its batch's last, and keeps the place."""
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        at, self._loaded = self._loaded or self._first, None
        if at.taken and at.workers != workers:
            raise FatalError(
                f"the state is from {at.workers} loader processes, but there are {workers}; save `state_after` to "
                "change them"
            )
        self._at = replace(at, resumed=at.taken, workers=workers)
        for sample, found, is_last in self._read(self._places(self._at, worker)):
            self._at = replace(self._at, taken=self._at.taken + 1)
            yield sample, found, is_last

    def _places(self, at: _Place, worker: int) -> Iterator[tuple[int, bool]]:
        """Yields the samples that a process has yet to yield, and whether each is the last of its batch."""
        batches, taken = divmod(at.taken, self.share)
        while True:
            start = at.start + (batches * at.workers + worker) * self.batch
            stop = start + self.batch if self._end is None else min(start + self.batch, self._end)
            if start >= stop:
                return
            first, last = self._own_part(start, stop)
            for place, sample in enumerate(self.sequence.draw(first + taken, last).samples.tolist(), first + taken):
                yield sample, place == last - 1
            batches, taken = batches + 1, 0

    def _own_part(self, start: int, stop: int) -> tuple[int, int]:
        """Returns this rank's part of the batch that begins at `start`, no further than `stop`."""
        first, last = (start + self.batch * part // self.ranks for part in (self.rank, self.rank + 1))
        return min(first, stop), min(last, stop)

    def _read(self, places: Iterator[tuple[int, bool]]) -> Iterator[tuple[int, _Found, bool]]:
        if not any("://" in tar for tar in self.sequence.samples.tars):
            for sample, is_last in places:
                yield sample, self._members(sample), is_last
            return
        with ThreadPoolExecutor(PREFETCH) as pool:
            pending: deque[tuple[int, Future[_Found], bool]] = deque()
            for sample, is_last in places:
                pending.append((sample, pool.submit(self._members, sample), is_last))
                if len(pending) == PREFETCH:
                    first, future, its_last = pending.popleft()
                    yield first, future.result(), its_last
            for first, future, its_last in pending:
                yield first, future.result(), its_last

    def _members(self, sample: int) -> _Found:
        # It is skipped even if it can be read by now, so that a resumed stream gives the same samples.
        if sample in self.skipped.reasons:
            return None
        try:
            return self._reader.read(sample, self._extensions)
        except DamagedSample as damage:
            return damage

    def _named(self, sample: int, members: dict[str, bytes]) -> dict[str, Any]:
        samples = self.sequence.samples
        return {"__key__": samples.key(sample), "__url__": samples.tars[samples.shard(sample)], **members}

    def _state(self, at: _Place) -> dict[str, Any]:
        own = {"batch": self.batch, "rank": self.rank, "ranks": self.ranks}
        progress = {"given": at.taken, "workers": at.workers, "skipped": self.skipped.as_state()}
        return self.sequence.state(at.start) | own | progress


class Batches(IterableDataset[StreamBatch]):
    """The parts of a stream's global batches, for loaders with `batch_size=None`. Damaged samples shorten it."""

    def __init__(self, stream: Stream) -> None:
        super().__init__()
        self._stream = stream
        self.state_dict, self.load_state_dict = stream.state_dict, stream.load_state_dict

    def __len__(self) -> int:
        """Batches that the next pass takes; of a stream without an end, those of one epoch."""
        return -(-len(self._stream) // self._stream.share)

    def __iter__(self) -> Iterator[StreamBatch]:
        batch = StreamBatch()
        for sample, members, is_last in self._stream._pass():
            if isinstance(members, DamagedSample):
                batch.damaged[sample] = str(members)
                self._stream.skipped.add({sample: str(members)})
            elif members is not None:
                batch.samples.append(self._stream._named(sample, members))
            if is_last:
                yield batch
                batch = StreamBatch()
