"""Token buckets: a rate that is held on average, with bursts up to a size."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable

from starlette.exceptions import HTTPException

KEYS = 4096
"""The most keys remembered. One more forgets the key that was idle longest."""


class RateLimit:
    """One token bucket for each key. A bucket holds `burst` tokens and gains `per_second` of them a second."""

    def __init__(self, per_second: float, burst: int, clock: Callable[[], float]) -> None:
        self._per_second = per_second
        self._burst = float(burst)
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, key: str) -> float:
        """Take a token of `key`. Returns 0, or the seconds until there is one; then nothing was taken."""
        now = self._clock()
        tokens, since = self._buckets.pop(key, (self._burst, now))
        tokens = min(self._burst, tokens + (now - since) * self._per_second)
        wait = 0.0 if tokens >= 1 else (1 - tokens) / self._per_second
        self._buckets[key] = (tokens if wait else tokens - 1, now)
        if len(self._buckets) > KEYS:
            self._buckets.popitem(last=False)
        return wait


def too_many(reason: str, wait: float) -> HTTPException:
    """A refusal (429) that says after how many seconds to try again."""
    seconds = math.ceil(wait)
    return HTTPException(429, f"{reason} Try again in {seconds} s.", {"Retry-After": str(seconds)})
