"""Two kinds of failure, told apart by type: `Terminal` needs a person, `Transient` may pass when tried again."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager


class PipelineError(Exception):
    """A failure with a message that says what, where and what to do."""


class Terminal(PipelineError):
    """Trying again cannot help: something must be changed first."""


class Transient(PipelineError):
    """Trying again may help: a worker died, a server did not answer."""


_FULL = {errno.ENOSPC, errno.EDQUOT}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}
_MAY_PASS = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN}


@contextmanager
def told(doing: str) -> Iterator[None]:
    """Turn an OSError of the disk into `Terminal` or `Transient` with a message; other errors go through.

    `doing` says what was being done, e.g. "writing tag coco/0003".
    """
    try:
        yield
    except OSError as error:
        where = f"{doing}: {error.strerror}" + (f" ({error.filename})" if error.filename else "")
        if error.errno in _FULL:
            raise Terminal(f"disk full while {where}; free space and run again: nothing is lost") from error
        if error.errno in _REFUSED:
            raise Terminal(f"not allowed while {where}; change its permissions or set `store` elsewhere") from error
        if error.errno in _MAY_PASS:
            raise Transient(f"the disk failed while {where}; if it stays so, look at the disk") from error
        raise
