"""Our own JSON files, which others may have edited: read within limits, checked against a type, and sealed."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pydantic import TypeAdapter, ValidationError

from storage.digests import digest_bytes
from storage.errors import FatalError

T = TypeVar("T")


class Limits(NamedTuple):
    """How large a JSON file may be. A value that does not fit its type takes up to a kilobyte of memory, for the error.

    Depth is limited by pydantic's parser, to 200.
    """

    size: int = 2**26
    """Bytes."""
    values: int = 2**19
    """Values, lists and objects together, counted by the commas and brackets of the whole file."""


LIMITS = Limits()
"""The default limits."""
_FEW = 1000
"""Maximum number of errors of one file that are listed, since each takes a kilobyte."""
_SEAL = re.compile(rb',\n "(.{4})": "(.{64})"\n\}', re.DOTALL)
_SEAL_SIZE = 79


def parse_json(data: bytes, kind: type[T], name: str, remedy: str = "", most: Limits = LIMITS) -> T:
    """JSON bytes as a value of type `kind`; numbers and texts are not converted into each other. A seal is verified.

    Raises `FatalError` that calls the bytes `name` and says what is wrong and what to do (`remedy`).
    """
    try:
        require_within(data, most)
        if not _matches_its_seal(data):
            raise ValueError("changed since it was written")
        hashable: Any = kind
        found: T = _adapter(hashable).validate_json(data, strict=True)
        return found
    except ValueError as error:
        then = f"; {remedy}" if remedy else ""
        raise FatalError(f"{name}: damaged ({reason_of(error)}){then}") from error


def parse_json_or_none(data: bytes | None, kind: type[T]) -> T | None:
    """JSON bytes as a value of type `kind`; None for missing or damaged ones, where the value only saves work."""
    with suppress(FatalError):
        return None if data is None else parse_json(data, kind, "hint")
    return None


def read_json(path: Path, kind: type[T], remedy: str = "", most: Limits = LIMITS) -> T:
    """A JSON file as a value of type `kind`. Raises FileNotFoundError, otherwise as `parse_json`."""
    return parse_json(read_within_limit(path, most.size), kind, str(path), remedy, most)


def require_within(data: bytes, most: Limits = LIMITS) -> None:
    """Check JSON bytes against limits before parsing. Raises ValueError that names the exceeded limit."""
    if len(data) > most.size:
        raise ValueError(f"more than {most.size:,} bytes")
    # Counted before parsing: the errors of a file full of them could exhaust the machine's memory.
    if sum(map(data.count, (b",", b"[", b"{"))) > most.values:
        raise ValueError(f"more than {most.values:,} values")


def read_within_limit(path: Path, most: int = LIMITS.size) -> bytes:
    """The bytes of a JSON file, at most one more than `most`. Raises OSErrors, and `FatalError` for a folder."""
    try:
        with path.open("rb") as file:
            return file.read(most + 1)
    except IsADirectoryError:
        raise FatalError(f"{path}: damaged (a folder instead of a file); remove it and run again") from None


def sealed_json(value: dict[str, Any], default: Callable[[Any], Any] | None = None) -> bytes:
    """An object with at least one field as JSON, which ends with a digest of all bytes before it.

    `default` converts values that JSON lacks; without it, one raises TypeError.
    """
    head = json.dumps(value, indent=1, default=default).removesuffix("\n}").encode()
    return head + f',\n "seal": "{digest_bytes(head)}"\n}}'.encode()


def json_values(value: Any) -> Any:
    """A value as JSON can hold it: NaN and infinity become null, keys text, tuples lists."""
    if isinstance(value, dict):
        return {str(name): json_values(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [json_values(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def reason_of(error: Exception) -> str:
    """What is wrong with a value, in a few words."""
    if not isinstance(error, ValidationError):
        text = str(error)
    elif error.error_count() > _FEW:
        text = f"{error.error_count():,} values do not fit"
    else:
        first = error.errors()[0]
        text = ": ".join((*(str(part) for part in first["loc"]), first["msg"].removeprefix("Value error, ")))
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text[:200])


def _matches_its_seal(data: bytes) -> bool:
    """Whether the digest at the end is that of the bytes before it. A file in sealed form must have the right one."""
    found = _SEAL.fullmatch(data[-_SEAL_SIZE:])
    return found is None or (found[1], found[2]) == (b"seal", digest_bytes(data[:-_SEAL_SIZE]).encode())


@lru_cache(maxsize=64)
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
