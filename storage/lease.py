"""Leases: files in a store that say who is computing an artifact, for machines without shared locks. They only save
work."""

from __future__ import annotations

import json
import platform
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from pydantic import BaseModel

from storage.errors import PipelineError
from storage.json_files import parse_json_or_none
from storage.remote import Remote


@dataclass(frozen=True)
class Patience:
    """Seconds between heartbeats, between checks of them, and of silence after which a holder counts as dead."""

    heartbeat: float = 5.0
    look: float = 2.0
    expiry: float = 20.0


@contextmanager
def hold_lease(
    files: Remote, path: str, machine: str, waiting: Callable[[str], None], patience: Patience = Patience()
) -> Iterator[None]:
    """Hold the lease at `path`. Calls `waiting` once with the holder's host, then waits while its heartbeats keep
    coming.

    A holder counts as dead when its lease stays the same for `expiry` seconds by the waiter's clock; clocks of
    two machines are never compared. A holder on this `machine` is certainly dead, since the caller holds a lock that
    excludes live ones. If the remote side fails, work continues without a lease.
    """
    holder = f"{machine} {uuid.uuid4().hex}"
    try:
        _take(files, path, machine, holder, waiting, patience)
    except PipelineError:
        yield
        return
    done = threading.Event()
    heartbeats = threading.Thread(
        target=_send_heartbeats, args=(files, path, holder, patience.heartbeat, done), daemon=True
    )
    heartbeats.start()
    try:
        yield
    finally:
        done.set()
        heartbeats.join()
        with suppress(PipelineError):
            # Another process may have taken the lease over while this one was stopped.
            if _lease_of(files.read(path)).holder == holder:
                files.remove([path])


class _Lease(BaseModel):
    holder: str = ""
    host: str = "another machine"
    """Leases of earlier versions name none."""


def _take(
    files: Remote, path: str, machine: str, holder: str, waiting: Callable[[str], None], patience: Patience
) -> None:
    """Acquire the lease."""
    seen: bytes | None = None
    since = time.monotonic()
    while not files.create(path, _lease_bytes(holder, 0)):
        found = files.read(path)
        # It was released after `create` failed.
        if found is None:
            continue
        lease = _lease_of(found)
        if lease.holder.partition(" ")[0] == machine:
            files.write(path, _lease_bytes(holder, 0))
            return
        if seen is None:
            # The host is shown on a terminal, and anyone who may write to the store can name one.
            waiting(re.sub(r"[^\w .-]", "", lease.host)[:100])
        if found != seen:
            seen, since = found, time.monotonic()
        elif time.monotonic() - since > patience.expiry:
            files.write(path, _lease_bytes(holder, 0))
            return
        time.sleep(patience.look)


def _send_heartbeats(files: Remote, path: str, holder: str, interval: float, done: threading.Event) -> None:
    """Rewrite the lease with a higher number until `done` is set."""
    number = 0
    while not done.wait(interval):
        number += 1
        with suppress(PipelineError):
            files.write(path, _lease_bytes(holder, number))


def _lease_bytes(holder: str, heartbeat: int) -> bytes:
    return json.dumps({"holder": holder, "host": platform.node(), "beat": heartbeat}).encode()


def _lease_of(data: bytes | None) -> _Lease:
    """The fields of a lease, with defaults for missing or damaged ones."""
    return parse_json_or_none(data, _Lease) or _Lease()
