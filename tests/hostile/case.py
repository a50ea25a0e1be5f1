"""A hostile case: something that anyone may have written, what is fed with it, and what must come of it."""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlip_command import rlip

from storage.errors import PipelineError

Feed = Callable[[Path], str]
Make = bytes | Callable[[Path], object]


@dataclass(frozen=True)
class Case:
    """`feed` gets an empty folder that it may write to, and returns the outcome; `outcome` is a pattern found in it."""

    kind: str
    name: str
    outcome: str
    feed: Feed


def outcome_of(feed: Feed, folder: Path) -> str:
    """What a feed tells; "refused: ..." for an error with a message, "traceback: ..." for anything else that it raises."""
    try:
        return feed(folder)
    except PipelineError as error:
        return f"refused: {error}"
    except BaseException as error:
        return f"traceback: {type(error).__name__}: {error}"


def told(*words: str | Path) -> str:
    """Calls `rlip` and tells its outcome: what it printed, or the message that it refused with."""
    done = rlip(*words)
    said = done.stderr.strip() or done.stdout.strip()
    return f"{ {0: 'passed', 1: 'refused', 2: 'usage'}.get(done.exit_code, done.exit_code) }: {said}"


def sparse(head: bytes = b"") -> Make:
    """A file of a tebibyte that takes no room."""

    def make(path: Path) -> None:
        path.write_bytes(head)
        os.truncate(path, 2**40)

    return make


def written(path: Path, content: Make | str | Any) -> Path:
    """Writes a file of bytes, of text, or of a value as JSON, or lets a function make it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if callable(content):
        content(path)
        return path
    data = content if isinstance(content, bytes | str) else json.dumps(content)
    path.write_bytes(data if isinstance(data, bytes) else data.encode("utf-8", "surrogatepass"))
    return path


def table(kind: str, rows: dict[str, tuple[str, Any]], feed: Callable[[Path, Any], str]) -> Iterator[Case]:
    """Cases that differ in what they feed alone: name → (outcome, what is fed)."""
    for name, (outcome, given) in rows.items():
        yield Case(kind, name, outcome, lambda folder, given=given: feed(folder, given))  # type: ignore[misc]
