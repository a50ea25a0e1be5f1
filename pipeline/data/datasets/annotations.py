"""Reads annotation files that may be missing, truncated or of another kind, and converts their values safely."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from storage.errors import FatalError

NO_IMAGE = -1
"""Image id of a reject whose own id cannot be read."""
_KINDS = {"{": "object", "[": "list", '"': "string", "t": "boolean", "f": "boolean", "n": "null"}
_LEAST, _MOST = -(2**63), 2**63 - 1
MAX_NAME = 1024
"""Characters of a file name with its folders, as in object stores."""
_MAX_NAME_PART = 255
"""Bytes of a name in a folder, as in file systems."""


MAX_WHOLE_FILE = 20 * 2**20
"""Bytes of a file that is read as a whole. Lists within lists take 48 times as much memory. The largest public file of
these formats is that of HICO-DET's training set, about 12 MB."""


class AnnotationError(FatalError):
    """An annotation file or image folder cannot be used. The message names it and says what is expected."""


def read_json(path: Path, expected: str) -> Any:
    """Reads a JSON file of at most `MAX_WHOLE_FILE` bytes. `expected` describes, for errors, what the file should hold.

    Raises `AnnotationError`.
    """
    with explained(path, expected):
        return parse_json(read_at_once(path, expected))


def read_at_once(path: Path, expected: str) -> bytes:
    """Reads a file of at most `MAX_WHOLE_FILE` bytes. Raises `AnnotationError`."""
    with explained(path, expected), path.open("rb") as file:
        data = file.read(MAX_WHOLE_FILE + 1)
    if len(data) > MAX_WHOLE_FILE:
        raise AnnotationError(
            f"{path}: has more than {MAX_WHOLE_FILE:,} bytes, the maximum for reading at once; expected {expected}"
        )
    return data


def read_text(path: Path, expected: str) -> str:
    """Reads a text file in UTF-8 of at most `MAX_WHOLE_FILE` bytes. Raises `AnnotationError`."""
    with explained(path, expected):
        return read_at_once(path, expected).decode("utf-8-sig")


def parse_json(text: str | bytes) -> Any:
    """Parses JSON; an integer beyond Python's 4,300 digits becomes infinite. Raises ValueError, RecursionError."""
    try:
        return json.loads(text)
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise
    except ValueError:
        return json.loads(text, parse_int=float)


def opening(path: Path, expected: str) -> str:
    """The first character of a text file that is not whitespace; "" when there is none. Raises `AnnotationError`."""
    with explained(path, expected), path.open(encoding="utf-8-sig") as file:
        return file.read(1000).strip()[:1]


@contextmanager
def explained(path: Path, expected: str) -> Iterator[None]:
    """Converts any error while the text or JSON file at `path` is read to `AnnotationError`."""
    try:
        yield
    except FileNotFoundError:
        raise AnnotationError(f"{path}: no such file; expected {expected}") from None
    except IsADirectoryError:
        raise AnnotationError(f"{path}: is a folder; expected {expected}") from None
    except OSError as error:
        raise AnnotationError(f"{path}: can't be read ({error.strerror}); expected {expected}") from error
    except UnicodeDecodeError as error:
        raise AnnotationError(f"{path}: not UTF-8 ({error}); save it as UTF-8; expected {expected}") from error
    except json.JSONDecodeError as error:
        raise AnnotationError(
            f"{path}: not valid JSON at line {error.lineno}, column {error.colno} ({error.msg}); expected {expected}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise AnnotationError(f"{path}: not valid JSON ({error}); expected {expected}") from error


def rows(content: Any, path: Path, expected: str) -> list[Any]:
    """Returns `content` if it is a list. Raises `AnnotationError` otherwise."""
    if not isinstance(content, list):
        kind = "object" if isinstance(content, dict) else kind_of(json.dumps(content)[0])
        raise AnnotationError(f"{path}: contains a JSON {kind}; expected {expected}")
    return content


def as_object(value: Any) -> dict[str, Any]:
    """Returns `value` if it is a JSON object; an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def as_id(value: Any) -> int | None:
    """Converts an int, a whole float or an int as text to an id in the range of int64; None for anything else.

    Open Images has ids below 0.
    """
    if type(value) is int and _LEAST <= value <= _MOST:  # fast path: almost all of millions of ids
        return value
    if isinstance(value, str) and value.strip().removeprefix("-").isdecimal() and value.isascii():
        value = int(value) if len(value) < 21 else None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not _LEAST <= value <= _MOST:
        return None
    return value


def as_four_numbers(value: Any) -> tuple[float, float, float, float] | None:
    """Converts a JSON list of four numbers (including NaN and infinity) to floats; None for anything else."""
    if not isinstance(value, list) or len(value) != 4:
        return None
    a, b, c, d = value
    if type(a) is type(b) is type(c) is type(d) is float:  # fast path: almost all of millions of boxes
        return a, b, c, d
    a, b, c, d = map(as_number, value)
    return None if a is None or b is None or c is None or d is None else (a, b, c, d)


def as_number(value: Any) -> float | None:
    """Converts a JSON number (also NaN and infinity) to a float; None for anything else, and beyond its range."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def as_size(value: Any) -> int | None:
    """Converts a value to a positive pixel count; None if it is not one."""
    size = as_id(value)
    return size if size is not None and 0 < size < 2**31 else None


def is_inside(relative: str) -> bool:
    """Whether a file name from an annotation file stays inside the folder that it is joined to, and can exist there."""
    if len(relative) > MAX_NAME or "\0" in relative or readable(relative) != relative:
        return False
    path = PurePosixPath(relative.replace("\\", "/"))
    fits = all(len(part.encode()) <= _MAX_NAME_PART for part in path.parts)
    return fits and bool(path.parts) and not path.is_absolute() and ".." not in path.parts


def shown(value: Any) -> str:
    """Formats a value as short text for quarantine."""
    return readable(str(value)[:200])


def readable(text: str) -> str:
    """Replaces lone surrogates, which JSON can hold but tables cannot, by "?"."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def kind_of(opening: str) -> str:
    """The kind of a JSON value by its first character."""
    return _KINDS.get(opening, "number")
