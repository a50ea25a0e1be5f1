"""Structured logs: one event per line with run, step and partition, as text or as JSON.

A run writes `run.log` and each of its workers `worker-N.log`, all in one folder beside the run's report.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from io import TextIOWrapper
from pathlib import Path
from typing import Any, Literal

from pipeline.runtime.wording import printable
from storage.errors import FatalError
from storage.secrets import redacted

LogFormat = Literal["text", "json"]

log = logging.getLogger("rlip")
"""The logger of every module. Give fields of an event as `extra={"fields": {...}}`."""
log.addHandler(logging.NullHandler())

_bound: ContextVar[dict[str, Any] | None] = ContextVar("bound", default=None)


@dataclass(frozen=True)
class RunLogs:
    """The folder of a run's log files. It is small and picklable, so that workers can open files of their own."""

    folder: Path
    run: str
    form: LogFormat = "text"

    @contextmanager
    def open(self, name: str) -> Iterator[Path]:
        """Append this process's events to `<name>.log` while the context lasts. Gives the file's path."""
        path = self.folder / f"{name}.log"
        handler = _LogFile(path, encoding="utf-8", delay=True)
        handler.setFormatter(_Formatter(self.form))
        level = log.level
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        try:
            with bound(run=self.run):
                yield path
        finally:
            log.removeHandler(handler)
            log.setLevel(level)
            handler.close()


@contextmanager
def bound(**fields: Any) -> Iterator[None]:
    """Add fields (run, step, partition) to every event that this thread logs inside the context."""
    token = _bound.set({**(_bound.get() or {}), **fields})
    try:
        yield
    finally:
        _bound.reset(token)


@contextmanager
def noticing(tell: Callable[[str], None]) -> Iterator[None]:
    """Call `tell` with the text of each event of this process that people should see, `extra={"notice": text}`."""

    def passing_on(record: logging.LogRecord) -> bool:
        if notice := getattr(record, "notice", ""):
            tell(notice)
        return True

    log.addFilter(passing_on)
    try:
        yield
    finally:
        log.removeFilter(passing_on)


class _LogFile(logging.FileHandler):
    """A file whose folder is made with the first event. Raises `FatalError` when it can't be written."""

    def _open(self) -> TextIOWrapper:
        try:
            Path(self.baseFilename).parent.mkdir(parents=True, exist_ok=True)
            return super()._open()
        except OSError as error:
            raise FatalError(
                f"log file {self.baseFilename} can't be written ({error.strerror}); set `reports` to a folder that you "
                "may write, or the store that contains them, e.g. --set store=FOLDER"
            ) from error

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name that `logging` calls
        """Drop this event: a full disk must not stop the run because of its log."""


class _Formatter(logging.Formatter):
    """One line per event: time in UTC, level, message, then the fields."""

    def __init__(self, form: LogFormat) -> None:
        super().__init__()
        self._form = form

    def format(self, record: logging.LogRecord) -> str:
        return redacted(self._line(record))

    def _line(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        fields = {**(_bound.get() or {}), **getattr(record, "fields", {})}
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        if self._form == "json":
            event = {"time": time, "level": record.levelname.lower(), "event": record.getMessage(), **fields}
            return json.dumps(event, ensure_ascii=False, default=str)
        exception = fields.pop("exception", None)
        words = " ".join(f"{name}={_quoted(value)}" for name, value in fields.items())
        line = f"{time} {record.levelname:<7} {printable(record.getMessage())} {words}".rstrip()
        return f"{line}\n{exception}" if exception else line


def _quoted(value: Any) -> str:
    """A value as one word: quoted, with line breaks escaped, where it has blanks."""
    text = str(value)
    return printable(json.dumps(text, ensure_ascii=False) if any(character.isspace() for character in text) else text)
