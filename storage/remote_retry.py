"""What another machine's failures mean: which need a person, and which may pass and are worth another try."""

from __future__ import annotations

import errno
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from storage.errors import FatalError, PipelineError, RetryableError

T = TypeVar("T")

PAUSES = (0.2, 1.0, 4.0)
"""Seconds between tries of what may pass, each varied by half so that many workers don't come back at once."""

_FULL = {errno.ENOSPC, errno.EDQUOT}
_LASTING = {
    errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.ENAMETOOLONG, errno.EMSGSIZE, errno.ENOTEMPTY,
    errno.ENOTDIR, errno.EISDIR, getattr(errno, "EREMCHG", errno.ENOENT),
}  # fmt: skip
_NO_CREDENTIALS = {"NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "TokenRetrievalError"}
_SILENT = {"HTTPClientError", "ConnectionError", "ClientError"}
"""Classes of botocore's and aiohttp's, by name since they may not be installed: the other side did not answer well."""


def retry(action: Callable[[], T], pauses: Sequence[float] = PAUSES) -> T:
    """Do `action`, and again after each pause while it raises `RetryableError`. What is done twice must be harmless."""
    for pause in pauses:
        try:
            return action()
        except RetryableError:
            time.sleep(pause * random.uniform(0.5, 1.5))
    return action()


@contextmanager
def translate_remote_errors(url: str) -> Iterator[None]:
    """Turn what an fsspec library raises into `FatalError` or `RetryableError`; that a file is there or not goes through."""
    try:
        yield
    except (PipelineError, FileNotFoundError, FileExistsError):
        raise
    except Exception as error:
        meaning = _meaning(error, url)
        if meaning is None:
            raise
        raise meaning from error


def _meaning(error: Exception, url: str) -> PipelineError | None:
    """`FatalError`, `RetryableError`, or None for an error that has nothing to do with the other side."""
    names = {kind.__name__ for kind in type(error).__mro__}
    said = f"{type(error).__name__}: {error}"
    if names & _NO_CREDENTIALS:
        return FatalError(f"{url}: {error}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE")
    if isinstance(error, PermissionError) or (isinstance(error, OSError) and error.errno == errno.EROFS):
        return FatalError(f"{url}: not allowed ({error}); check the credentials and what they may do there")
    if isinstance(error, OSError) and error.errno in _FULL:
        return FatalError(f"{url}: disk full ({error}); free space and run again: nothing is lost")
    if isinstance(error, OSError) and error.errno in _LASTING:
        return FatalError(f"{url}: refused ({said})")
    if isinstance(error, OSError | TimeoutError):
        return RetryableError(_unreached(url, said))
    if isinstance(error, ImportError):
        return FatalError(f"{url}: {error}; for S3: pip install 'rlip[s3]'")
    if isinstance(error, ValueError):
        return FatalError(f"{url}: {error}; name a folder, s3://bucket/folder or another address")
    if type(error).__module__.startswith(("botocore", "aiobotocore", "aiohttp")):
        return RetryableError(_unreached(url, said)) if names & _SILENT else FatalError(f"{url}: {said}")
    return None


def _unreached(url: str, said: str) -> str:
    asked = next((name for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL") if os.environ.get(name)), None)
    hint = f"; S3 is asked for at {os.environ[asked]}, as {asked} says" if asked and url.startswith("s3") else ""
    return f"{url} can't be reached ({said}{hint})"
