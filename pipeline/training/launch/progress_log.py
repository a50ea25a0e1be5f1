"""Follows the log of the training processes for the progress that rank 0 prints, `step 3/12: loss 4.20`."""

from __future__ import annotations

import re
from pathlib import Path
from types import TracebackType
from typing import Self

from pipeline.runtime.stage import ReportProgress

_PROGRESS = re.compile(r"step (\d+)/(\d+): (.*)")
_TAIL = 15


class ProgressLog:
    """Reports what is new in the log, from its end at the start of this object on. Closes the file as a context."""

    def __init__(self, path: Path, report: ReportProgress) -> None:
        self.path = path
        path.touch()
        self._lines = path.open("rb")
        self._lines.seek(0, 2)
        self._rest = b""
        self._report = report
        self._done, self._total = 0, 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lines.close()

    def follow(self) -> None:
        """Reports the last progress among the lines that are new."""
        *whole, self._rest = (self._rest + self._lines.read()).split(b"\n")
        found = [m for line in whole if (m := _PROGRESS.fullmatch(line.decode(errors="replace")))]
        if found:
            self._done, self._total = int(found[-1][1]), int(found[-1][2])
            self._report(self._done, self._total, found[-1][3])

    def write(self, text: str) -> None:
        """Writes a line of the launcher itself into the log."""
        with self.path.open("a") as log:
            log.write(f"{text}\n")

    def note(self, text: str) -> None:
        """Writes a line of the launcher itself into the log and reports it."""
        self.write(text)
        self._report(self._done, self._total, text)

    def end(self) -> str:
        """Returns the last lines of the log."""
        return "\n".join(self.path.read_text(errors="replace").splitlines()[-_TAIL:])
