"""Leases: a note in a store that somebody makes an artifact, for machines that share no locks. It spares work only."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from storage.errors import PipelineError
from storage.remote import Remote


@dataclass(frozen=True)
class Patience:
    """Seconds between signs of life, between looks, and without a sign after which a holder counts as dead."""

    beat: float = 15.0
    look: float = 2.0
    expiry: float = 60.0


@contextmanager
def leased(
    files: Remote, path: str, machine: str, waiting: Callable[[], None], patience: Patience = Patience()
) -> Iterator[None]:
    """Hold the lease at `path`: wait while its holder shows signs of life, after calling `waiting` once.

    A holder counts as dead when its note stays the same for `expiry` seconds of the one who waits: no two machines'
    clocks are compared. One of this `machine` is dead for certain, since a lock that the caller holds keeps the living
    out. Where the lease can't be had (the other side fails) work goes on without.
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


def _take(files: Remote, path: str, holder: str, waiting: Callable[[], None], patience: Patience) -> None:
    """Come to hold the lease."""
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
            waiting()
        if found != seen:
            seen, since = found, time.monotonic()
        elif time.monotonic() - since > patience.expiry:
            files.write(path, _note(holder, 0))
            return
        time.sleep(patience.look)


def _live(files: Remote, path: str, holder: str, beat: float, done: threading.Event) -> None:
    """Give signs of life until done."""
    number = 0
    while not done.wait(beat):
        number += 1
        with suppress(PipelineError):
            files.write(path, _note(holder, number))


def _note(holder: str, beat: int) -> bytes:
    return json.dumps({"holder": holder, "beat": beat}).encode()


def _holder(data: bytes | None) -> str | None:
    try:
        return str(json.loads(data or b"{}").get("holder"))
    except ValueError:
        return None
