"""Hosts that a test loses: the processes of a Ray node or of a Prefect worker on this machine, killed or cut off as one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress

import psutil

Host = list[psutil.Process]


def host_of(*started: int) -> Host:
    """Those of these processes that live, and all below them."""
    found: Host = []
    for pid in started:
        with suppress(psutil.NoSuchProcess):
            found += [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    return found


def kill(host: Host) -> None:
    """Kill all processes at once, as a loss of power does."""
    _each(process.kill for process in host)


def cut_off(host: Host) -> None:
    """Stop all processes: connections to them stay open, and nothing answers."""
    _each(process.suspend for process in host)


def come_back(host: Host) -> None:
    """Let those go on that were cut off."""
    _each(process.resume for process in host)


def _each(signals: Iterable[Callable[[], None]]) -> None:
    for send in signals:
        with suppress(psutil.NoSuchProcess):
            send()
