"""Streams annotation files of many gigabytes element by element, holding only one window of text in memory.

Top-level lists are walked here. `json` parses their elements, exactly as `json.load` would: many tools write NaN, which
ijson rejects, and ijson needs a pass over the file for each list.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from json import JSONDecodeError
from pathlib import Path
from typing import Any

from pipeline.data.datasets.annotations import AnnotationError, explained, kind_of, read_json, rows

CHUNK = 2**22
"""Characters read at a time."""
MAX_ELEMENT = 2**24
"""Maximum characters of one element; above it, the file counts as damaged. Empty lists take 20 times as much memory."""
_NEAR_THE_END = 16
"""An error this close to the end of the buffer may only mean that a word or number continues (longest: -Infinity)."""
_EXPONENT = 2
"""Characters that may follow the apparent end of a number that continues beyond the buffer: "." or "e+"."""

_SPACE = re.compile(r"[ \t\n\r]*")
_COMMA = re.compile(r"[ \t\n\r]*,[ \t\n\r]*")
_decode = json.JSONDecoder().raw_decode
_decode_huge = json.JSONDecoder(parse_int=float).raw_decode


def stream_rows(path: Path, expected: str) -> Iterator[Any]:
    """Yields the elements of a JSON list. Raises `AnnotationError`, as `read_json` does, on reaching the error."""
    with explained(path, expected), path.open(encoding="utf-8-sig", newline="") as file:
        text = _Text(file)
        if text.peek() == "[":
            yield from text.elements()
            text.end()
            return
        if text.peek() == "{":
            raise AnnotationError(f"{path}: contains a JSON object; expected {expected}")
    yield from rows(read_json(path, expected), path, expected)


def stream_lists(
    path: Path,
    expected: str,
    names: Collection[str],
    report: Callable[[float], None] | None = None,
    optional: Collection[str] = (),
    others: Collection[str] = (),
) -> Iterator[tuple[str, Any]]:
    """Yields the elements of the lists `names` of a JSON object with the name of their list, in file order.

    Lists that are `optional` may be missing; `others` may also be no lists, and are then yielded whole. Further fields
    are skipped. `report` gets the share of the file that has been read, 0 to 1. Raises `AnnotationError` on reaching
    the error, or at the end when a list is missing.
    """
    missing = set(names)
    with _object(path, expected, report) as text:
        for name in text.fields():
            wanted = name in names or name in optional
            if text.peek() == "[":
                missing.discard(name)
                for element in text.elements():
                    if wanted or name in others:
                        yield name, element
            elif name in others:
                yield name, text.value()
            elif wanted:
                raise AnnotationError(f"{path}: field {name!r} is a JSON {kind_of(text.peek())}; expected {expected}")
            elif text.peek() == "{":
                for _ in text.fields():
                    text.value()
            else:
                text.value()
    if missing:
        raise AnnotationError(f"{path}: has no field {min(missing)!r}; expected {expected}")


def stream_fields(path: Path, expected: str) -> Iterator[tuple[str, Any]]:
    """Yields the fields of a JSON object in file order. Raises `AnnotationError` on reaching the error."""
    with _object(path, expected) as text:
        for name in text.fields():
            yield name, text.value()


@contextmanager
def _object(path: Path, expected: str, report: Callable[[float], None] | None = None) -> Iterator[_Text]:
    """The text of a file that holds one JSON object, at its start. Raises `AnnotationError`, as `stream_lists` does."""
    with explained(path, expected), path.open(encoding="utf-8-sig", newline="") as file:
        text = _Text(file, report)
        opening = text.peek()
        if opening != "{":
            # Other values than lists are parsed, so that an invalid one is reported as such.
            kind = "list" if opening == "[" else kind_of(json.dumps(read_json(path, expected))[0])
            raise AnnotationError(f"{path}: contains a JSON {kind}; expected {expected}")
        yield text
        text.end()


class _Text:
    """A window that moves over a JSON text once, from start to end."""

    def __init__(self, file: TextIOWrapper, report: Callable[[float], None] | None = None) -> None:
        self._file = file
        self._report = report
        self._size = max(1, os.fstat(file.fileno()).st_size)
        self._buffer = ""
        self._at = 0
        self._line, self._column = 0, 0
        """Number of lines, and of characters of the last line, before the buffer."""

    def peek(self) -> str:
        """The next character that is not whitespace; "" at the end."""
        while True:
            match = _SPACE.match(self._buffer, self._at)
            assert match is not None  # the pattern also matches the empty string
            self._at = match.end()
            if self._at < len(self._buffer):
                return self._buffer[self._at]
            if not self._more():
                return ""

    def value(self) -> Any:
        """Parses the next value."""
        if self._at == len(self._buffer) or self._buffer[self._at] in " \t\n\r":
            self.peek()
        while True:
            try:
                found, end = self._decoded()
            except JSONDecodeError as error:
                if not (self._may_go_on(error) and self._more()):
                    raise self._placed(error.msg, error.pos) from error
                continue
            if isinstance(found, int | float) and end >= len(self._buffer) - _EXPONENT:
                if end - self._at > MAX_ELEMENT:
                    raise self._placed("Number too long", self._at)
                if self._more():
                    continue
            self._at = end
            return found

    def _decoded(self) -> tuple[Any, int]:
        """The value here and its end. Where Python converts no integer (above 4,300 digits), integers become floats."""
        try:
            return _decode(self._buffer, self._at)
        except JSONDecodeError:
            raise
        except ValueError:
            return _decode_huge(self._buffer, self._at)

    def elements(self) -> Iterator[Any]:
        """Yields the elements of the list that starts here."""
        self._take("[")
        if self.peek() == "]":
            self._at += 1
            return
        while True:
            yield self.value()
            # Fast path for the regular case, millions of elements; anything else goes through `_take`.
            match = _COMMA.match(self._buffer, self._at)
            if match is not None and match.end() < len(self._buffer):
                self._at = match.end()
            elif self._take(",]") == "]":
                return

    def fields(self) -> Iterator[str]:
        """Yields the field names of the object that starts here. The caller must read each value before going on."""
        self._take("{")
        if self.peek() == "}":
            self._at += 1
            return
        while True:
            if self.peek() != '"':
                raise self._placed("Expecting property name enclosed in double quotes", self._at)
            name = self.value()
            self._take(":")
            yield name
            if self._take(",}") == "}":
                return

    def end(self) -> None:
        """Checks that only whitespace follows."""
        if self.peek():
            raise self._placed("Extra data", self._at)

    def _take(self, allowed: str) -> str:
        found = self.peek()
        if not found or found not in allowed:
            raise self._placed(f"Expecting {' or '.join(map(repr, allowed))}", self._at)
        self._at += 1
        return found

    def _may_go_on(self, error: JSONDecodeError) -> bool:
        if len(self._buffer) - self._at > MAX_ELEMENT:
            return False
        return error.pos >= len(self._buffer) - _NEAR_THE_END or error.msg.startswith("Unterminated string")

    def _more(self) -> bool:
        """Reads on, at least as much as is pending, so that a long element costs at most twice its length."""
        chunk = self._file.read(max(CHUNK, len(self._buffer) - self._at))
        if not chunk:
            return False
        lines = self._buffer.count("\n", 0, self._at)
        last = self._buffer.rfind("\n", 0, self._at)
        self._column = self._at - last - 1 if lines else self._column + self._at
        self._line += lines
        self._buffer = self._buffer[self._at :] + chunk
        self._at = 0
        if self._report is not None:
            # The place of the descriptor: `tell` of a text file has to work out the state of its decoder.
            self._report(os.lseek(self._file.fileno(), 0, os.SEEK_CUR) / self._size)
        return True

    def _placed(self, message: str, position: int) -> JSONDecodeError:
        """A JSON error whose position refers to the file instead of the buffer."""
        error = JSONDecodeError(message, self._buffer, position)
        error.colno += self._column if error.lineno == 1 else 0
        error.lineno += self._line
        return error
