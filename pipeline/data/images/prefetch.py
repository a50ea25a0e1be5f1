"""Prefetches images: reads and decodes them in order on worker threads, ahead of their use."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from pipeline.data.images.opening import DEFAULT_LIMITS, BadImage, ImageLimits
from pipeline.data.images.refs import ImageRef

Read = TypeVar("Read")


def read_ahead(
    places: Iterable[ImageRef],
    read: Callable[[ImageRef, ImageLimits], Read],
    limits: ImageLimits = DEFAULT_LIMITS,
    threads: int = 2,
    ahead: int = 16,
) -> Iterator[Read | BadImage]:
    """Yields the result of `read` (e.g. `read_image`) for each place, or its `BadImage`, in the order of `places`.

    At most `ahead` images are held in addition to the current one. Decoding and resizing release the GIL. Any exception
    other than `BadImage` is raised here, in the turn of its image. Closing the iterator early leaves nothing running.
    """
    left = iter(places)
    pool = ThreadPoolExecutor(threads, thread_name_prefix="images")
    try:
        waiting: deque[Future[Read | BadImage]] = deque()
        for place in islice(left, max(1, ahead)):
            waiting.append(pool.submit(_read_or_error, read, place, limits))
        while waiting:
            found = waiting.popleft().result()
            for place in islice(left, 1):
                waiting.append(pool.submit(_read_or_error, read, place, limits))
            yield found
    finally:
        pool.shutdown(cancel_futures=True)


def _read_or_error(
    read: Callable[[ImageRef, ImageLimits], Read], place: ImageRef, limits: ImageLimits
) -> Read | BadImage:
    try:
        return read(place, limits)
    except BadImage as bad:
        return bad
