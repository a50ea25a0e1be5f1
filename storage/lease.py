"""Leases: notes in a store that someone is making an artifact, for machines that share no locks. They only save work."""

from __future__ import annotations

import json
import platform
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from pydantic import BaseModel

from storage.errors import PipelineError
from storage.json_files import parse_note
from storage.remote import Remote


@dataclass(frozen=True)
class Patience:
    """Seconds between signs of life, between looks at them, and of silence after which a holder counts as dead."""

    beat: float = 5.0
    look: float = 2.0
    expiry: float = 20.0


@contextmanager
def hold_lease(
    files: Remote, path: str, machine: str, waiting: Callable[[str], None], patience: Patience = Patience()
) -> Iterator[None]:
    """Hold the lease at `path`. Calls `waiting` once with the holder's host, then waits while it shows signs of life.

    A holder counts as dead when its note stays the same for `expiry` seconds by the clock of the one who waits; clocks of
    two machines are never compared. A holder on this `machine` is certainly dead, since the caller holds a lock that
    excludes live ones. If the lease cannot be had because the remote side fails, work goes on without it.
    """
    holder = f"{machine} {uuid.uuid4().hex}"
    try:
        _take(files, path, holder, waiting, patience)
    except PipelineError:
        yield
        return
    done = threading.Event()
    life = threading.Thread(target=_live, args=(files, path, holder, patience.beat, done), daemon=True)
    life.start()
    try:
        yield
    finally:
        done.set()
        life.join()
        with suppress(PipelineError):
            if _holder(files.read(path)) == holder:
                files.remove([path])


class _Note(BaseModel):
    holder: str
    host: str = "another machine"
    """Notes of earlier versions name none."""


def _take(files: Remote, path: str, holder: str, waiting: Callable[[str], None], patience: Patience) -> None:
    """Acquire the lease."""
    seen: bytes | None = None
    since = time.monotonic()
    while not files.create(path, _note(holder, 0)):
        found = files.read(path)
        if found is None:
            continue
        if (_holder(found) or "").partition(" ")[0] == holder.partition(" ")[0]:
            files.write(path, _note(holder, 0))
            return
        if seen is None:
            waiting(_host(found))
        if found != seen:
            seen, since = found, time.monotonic()
        elif time.monotonic() - since > patience.expiry:
            files.write(path, _note(holder, 0))
            return
        time.sleep(patience.look)


def _live(files: Remote, path: str, holder: str, beat: float, done: threading.Event) -> None:
    """Give signs of life until `done` is set."""
    number = 0
    while not done.wait(beat):
        number += 1
        with suppress(PipelineError):
            files.write(path, _note(holder, number))


def _note(holder: str, beat: int) -> bytes:
    return json.dumps({"holder": holder, "host": platform.node(), "beat": beat}).encode()


def _holder(data: bytes | None) -> str | None:
    """Who holds a lease; None where its note is gone or damaged."""
    note = parse_note(data, _Note)
    return None if note is None else note.holder


def _host(data: bytes) -> str:
    """The host that a lease names, for people: at most 100 characters, none of them with a meaning for a terminal."""
    note = parse_note(data, _Note)
    host = _Note.model_fields["host"].default if note is None else note.host
    return "".join(each for each in host if each.isalnum() or each in " .-_")[:100]
