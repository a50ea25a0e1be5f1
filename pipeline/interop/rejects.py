"""Collects what an import leaves out, in bounded memory: a file may hold millions of bad rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from pipeline.data.datasets.annotations import NO_IMAGE
from pipeline.runtime.stage import Rejected

MOST_KEPT = 10_000
"""Rejects of one reason that are kept with their values. The others are counted."""


class Rejects:
    """Rejects in their order. Of each reason, one more stands at the end for those that were only counted."""

    def __init__(self, rejects: Iterable[Rejected] = ()) -> None:
        self._kept: list[Rejected] = []
        self._counts: Counter[str] = Counter()
        self._further: Counter[str] = Counter()
        self.extend(rejects)

    def append(self, reject: Rejected) -> None:
        """Adds a reject."""
        self._counts[reject.reason] += reject.count
        if self._counts[reject.reason] <= MOST_KEPT:
            self._kept.append(reject)
        else:
            self._further[reject.reason] += reject.count

    def extend(self, rejects: Iterable[Rejected]) -> None:
        """Adds rejects."""
        for reject in rejects:
            self.append(reject)

    def __iter__(self) -> Iterator[Rejected]:
        yield from self._kept
        for reason, count in self._further.items():
            yield Rejected(NO_IMAGE, reason, f"and {count:,} more", count)

    def __len__(self) -> int:
        return self._counts.total()
