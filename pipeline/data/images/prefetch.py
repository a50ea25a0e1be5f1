"""Images read and decoded ahead of their use, off the main thread, in their order."""

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
    """What `read` makes of each place (`read_image`, say), or why its image can't be used, in the order of `places`.

    At most `ahead` images are held beside the one in use, however many places there are. Decoders and resizing let go
    of the interpreter. What a thread raises but `BadImage` comes out here, in the image's turn; a caller that stops
    early leaves nothing running.
    """
    left = iter(places)
    pool = ThreadPoolExecutor(threads, thread_name_prefix="images")
    try:
        waiting: deque[Future[Read | BadImage]] = deque()
        for place in islice(left, max(1, ahead)):
            waiting.append(pool.submit(_read_or_tell, read, place, limits))
        while waiting:
            found = waiting.popleft().result()
            for place in islice(left, 1):
                waiting.append(pool.submit(_read_or_tell, read, place, limits))
            yield found
    finally:
        pool.shutdown(cancel_futures=True)


def _read_or_tell(
    read: Callable[[ImageRef, ImageLimits], Read], place: ImageRef, limits: ImageLimits
) -> Read | BadImage:
    try:
        return read(place, limits)
    except BadImage as bad:
        return bad
