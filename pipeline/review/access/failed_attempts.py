"""Guessing a password gets slower with every wrong guess."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

FREE = 3
"""Wrong passwords that cost no waiting."""
LONGEST_S = 900.0
"""The longest wait between two attempts of an address: from the 13th on, four guesses an hour."""
FORGOTTEN_S = 24 * 3600.0
ADDRESSES = 4096
"""The most addresses remembered. One more forgets the address that was idle longest."""


class FailedAttempts:
    """Counts each address's wrong passwords. After `FREE` of them the wait doubles: 1 s, 2 s, 4 s, up to `LONGEST_S`."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def wait(self, address: str) -> float:
        """Seconds until `address` may try again; 0 if it may now."""
        count, last = self._recent(address)
        if count < FREE:
            return 0.0
        return max(0.0, last + min(2.0 ** (count - FREE), LONGEST_S) - self._clock())

    def begin(self, address: str) -> None:
        """Count an attempt as failed before its password is checked, so that parallel attempts gain nothing."""
        count, _ = self._recent(address)
        self._failures[address] = (count + 1, self._clock())
        self._failures.move_to_end(address)
        if len(self._failures) > ADDRESSES:
            self._failures.popitem(last=False)

    def succeeded(self, address: str) -> None:
        """Forget the failures of `address`."""
        self._failures.pop(address, None)

    def _recent(self, address: str) -> tuple[int, float]:
        count, last = self._failures.get(address, (0, 0.0))
        return (0, 0.0) if self._clock() - last > FORGOTTEN_S else (count, last)
