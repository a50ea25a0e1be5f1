"""What runners ask of an engine, whichever machines its workers are on."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from types import TracebackType
from typing import Protocol, Self

from pipeline.runtime.execute import Record, WorkItem
from storage.errors import RetryableError

Progress = Callable[[WorkItem, int, int, str], None]

ATTEMPTS = 3
"""How often an item is tried when its worker dies (e.g. killed for lack of memory) before the run stops."""


class Engine(Protocol):
    """Workers of one stage. Use it as a context manager; on exit it waits for its items, or drops them after an error.

    The futures of dropped items, and of those submitted later, raise `RetryableError`.
    """

    @property
    def workers(self) -> int:
        """Maximum number of items that are executed at once."""

    def submit(self, item: WorkItem) -> Future[Record]:
        """Queue an item, from any thread. The future gives its record or raises what went wrong."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def drop(item: WorkItem, future: Future[Record]) -> None:
    """End the future of an item that nobody will execute. `Future.cancel` alone would not wake `as_completed`."""
    with suppress(InvalidStateError):
        future.set_exception(RetryableError(f"{item.step} {item.partition}: stopped"))
