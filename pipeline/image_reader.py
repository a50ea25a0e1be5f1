"""Images read and decoded ahead of their use, off the main thread, in their order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

from PIL import Image

from pipeline.image_places import ImagePlace
from pipeline.images import DEFAULT_LIMITS, BadImage, ImageLimits, read_image

Prepare = Callable[[Image.Image], Image.Image]


def read_ahead(
    places: Iterable[ImagePlace],
    limits: ImageLimits = DEFAULT_LIMITS,
    threads: int = 2,
    ahead: int = 16,
    prepare: Prepare | None = None,
) -> Iterator[Image.Image | BadImage]:
    """Each place's image as RGB, or why it can't be used, in the order of `places`.

    At most `ahead` images are held beside the one in use, however many places there are. `prepare` is done on the
    threads too (resizing, say): Pillow lets go of the interpreter while it decodes and resizes. Whatever else a thread
    raises comes out here, in the image's turn; a caller that stops early leaves nothing running.
    """
    left = iter(places)
    pool = ThreadPoolExecutor(threads, thread_name_prefix="images")
    try:
        waiting: deque[Future[Image.Image | BadImage]] = deque()
        for place in islice(left, max(1, ahead)):
            waiting.append(pool.submit(_read, place, limits, prepare))
        while waiting:
            found = waiting.popleft().result()
            for place in islice(left, 1):
                waiting.append(pool.submit(_read, place, limits, prepare))
            yield found
    finally:
        pool.shutdown(cancel_futures=True)


def _read(place: ImagePlace, limits: ImageLimits, prepare: Prepare | None) -> Image.Image | BadImage:
    try:
        image = read_image(place, limits)
    except BadImage as bad:
        return bad
    return image if prepare is None else prepare(image)
