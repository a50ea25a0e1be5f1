"""Sees which internet sockets a process and its children have, by /proc/net/tcp, tcp6, udp and udp6."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread

import psutil

PAUSE = 0.05
"""Seconds between looks. Servers, and the stores at which ranks meet, last much longer."""


@contextmanager
def sockets_of(pid: int) -> Iterator[set[str]]:
    """Looks again and again while the context lasts. Yields the IP addresses of both ends, which grow meanwhile."""
    found: set[str] = set()
    done = Event()

    def look() -> None:
        while not done.wait(PAUSE):
            with suppress(psutil.Error):
                root = psutil.Process(pid)
                for process in (root, *root.children(recursive=True)):
                    with suppress(psutil.Error):
                        ends = [end for each in process.net_connections("inet") for end in (each.laddr, each.raddr)]
                        found.update(end.ip for end in ends if end)

    looking = Thread(target=look)
    looking.start()
    try:
        yield found
    finally:
        done.set()
        looking.join()
