"""What was left out, mended or can't be held, counted by reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from pipeline.runtime.stage import Rejected


class Tally:
    """Counts by reason."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def note(self, reason: str, number: int = 1) -> None:
        """Count `number` more for a reason; 0 is not kept."""
        if number:
            self.counts[reason] += number

    def note_all(self, rejects: Iterable[Rejected]) -> None:
        """Count rejects by their reasons."""
        self.counts.update(reject.reason for reject in rejects)

    def as_json(self) -> dict[str, int]:
        """Reason → count, the most frequent first."""
        return dict(sorted(self.counts.items(), key=lambda entry: (-entry[1], entry[0])))
