"""Two kinds of failure, distinguished by type: `FatalError` needs a person, `RetryableError` may pass on a retry."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches


class PipelineError(Exception):
    """A failure whose message says what is wrong, where, and what to do."""


class FatalError(PipelineError):
    """A retry cannot help: a person must change something first."""


class RetryableError(PipelineError):
    """A retry may help, e.g. after a worker died or a server did not answer."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A question for an error that quotes an unknown name: " (did you mean 'caption'?)"; "" without one like it."""
    alike = get_close_matches(name, list(known), n=1)
    return f" (did you mean {alike[0]!r}?)" if alike else ""


def first_line(error: BaseException) -> str:
    """The first line of what another library says, at most 300 characters; the error's repr if it says nothing."""
    return (str(error).splitlines() or [repr(error)])[0][:300]


_FULL = {errno.ENOSPC, errno.EDQUOT}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}
_MAY_PASS = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN}


@contextmanager
def translate_os_errors(doing: str) -> Iterator[None]:
    """Turn an OSError of the disk into a `FatalError` or `RetryableError` with a message. Other errors pass through.

    `doing` says what was being done, e.g. "writing tag coco/0003".
    """
    try:
        yield
    except OSError as error:
        where = f"{doing}: {error.strerror}" + (f" ({error.filename})" if error.filename else "")
        if error.errno in _FULL:
            raise FatalError(f"disk full while {where}; free space and run again: nothing is lost") from error
        if error.errno in _REFUSED:
            raise FatalError(
                f"permission denied while {where}; change its permissions or name another folder"
            ) from error
        if error.errno in _MAY_PASS:
            raise RetryableError(f"the disk failed while {where}; if this persists, check the disk") from error
        raise
