"""Flattens many partitions for the review index, in processes of their own where that is worth starting them."""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass

import pyarrow as pa

from pipeline.labels.kept_labels import ChoiceSettings
from pipeline.review.partition_counts import partition_counts
from pipeline.review.partition_rows import PartitionArtifacts, partition_rows
from storage.errors import PipelineError

FEW = 64
"""Up to so many partitions take less time than processes take to start."""
_PROCESSES = 4
"""Most processes; one that writes the index keeps up with about so many."""
_AHEAD = 2
"""Flattened partitions that wait for each process, about 1 MB each."""


@dataclass(frozen=True)
class FlatPartition:
    """A partition that is to be indexed. `tables`: table of the index → its rows; None where artifacts don't fit each other."""

    part: int
    tables: dict[str, pa.Table] | None


def flattened(partitions: Sequence[tuple[int, PartitionArtifacts]], choice: ChoiceSettings) -> Iterator[FlatPartition]:
    """Flattens partitions, given with their numbers, and yields them in order."""
    if len(partitions) <= FEW:
        yield from (_flatten(part, found, choice) for part, found in partitions)
        return
    processes = min(_PROCESSES, len(os.sched_getaffinity(0)))
    # Processes are spawned: a fork of a server copies locks that its threads hold.
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        waiting: deque[Future[FlatPartition]] = deque()
        for part, found in partitions:
            waiting.append(pool.submit(_flatten, part, found, choice))
            if len(waiting) > processes * _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _flatten(part: int, found: PartitionArtifacts, choice: ChoiceSettings) -> FlatPartition:
    held = found.held()
    try:
        rows = partition_rows(part, held, choice)
        counted = partition_counts(part, held, rows.relations)
    except PipelineError:
        return FlatPartition(part, None)
    return FlatPartition(part, {**vars(rows), **vars(counted)})
