"""Failures of a remote store: which need a person, and which may pass and are worth a retry."""

from __future__ import annotations

import errno
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from storage.errors import FatalError, PipelineError, RetryableError
from storage.secrets import redacted

T = TypeVar("T")

PAUSES = (0.2, 1.0, 4.0)
"""Seconds between tries, each varied by half so that many workers do not come back at once."""

_FULL = {errno.ENOSPC, errno.EDQUOT}
_LASTING = {
    errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.ENAMETOOLONG, errno.EMSGSIZE, errno.ENOTEMPTY,
    errno.ENOTDIR, errno.EISDIR, getattr(errno, "EREMCHG", errno.ENOENT),
}  # fmt: skip
_NO_CREDENTIALS = {"NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "TokenRetrievalError"}
_SILENT = {"HTTPClientError", "ConnectionError", "ClientError"}
"""Classes of botocore and aiohttp for missing or bad answers, by name since the packages may not be installed."""


def retry(action: Callable[[], T], pauses: Sequence[float] = PAUSES) -> T:
    """Call `action`, and again after each pause while it raises `RetryableError`. It must be harmless to repeat."""
    for pause in pauses:
        try:
            return action()
        except RetryableError:
            time.sleep(pause * random.uniform(0.5, 1.5))
    return action()


@contextmanager
def translate_remote_errors(url: str) -> Iterator[None]:
    """Turn errors of fsspec libraries into `FatalError` or `RetryableError`, except FileNotFoundError and FileExistsError."""
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
    """`FatalError`, `RetryableError`, or None for an error that is unrelated to the remote side."""
    names = {kind.__name__ for kind in type(error).__mro__}
    detail = f"{type(error).__name__}: {error}"
    if names & _NO_CREDENTIALS:
        return FatalError(f"{url}: {error}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE")
    if isinstance(error, PermissionError) or (isinstance(error, OSError) and error.errno == errno.EROFS):
        return FatalError(f"{url}: not allowed ({error}); check the credentials and their permissions")
    if isinstance(error, OSError) and error.errno in _FULL:
        return FatalError(f"{url}: disk full ({error}); free space and run again: nothing is lost")
    if isinstance(error, OSError) and error.errno in _LASTING:
        return FatalError(f"{url}: refused ({detail})")
    if isinstance(error, OSError | TimeoutError):
        return RetryableError(_unreached(url, detail))
    if isinstance(error, ImportError):
        return FatalError(f"{url}: {error}; for S3: pip install 'rlip[s3]'")
    if isinstance(error, ValueError | NotImplementedError):
        return FatalError(f"{url}: {str(error) or 'not a store'}; name a folder, s3://bucket/folder or another address")
    if type(error).__module__.startswith(("botocore", "aiohttp")):
        return RetryableError(_unreached(url, detail)) if names & _SILENT else FatalError(f"{url}: {detail}")
    return None


def _unreached(url: str, detail: str) -> str:
    source = next((name for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL") if os.environ.get(name)), None)
    hint = (
        f"; the endpoint is {redacted(os.environ[source])}, set by {source}" if source and url.startswith("s3") else ""
    )
    return f"{url} can't be reached ({detail}{hint})"
