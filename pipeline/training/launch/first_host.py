"""The first host of a training, as another host sees it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Literal

from pipeline.training.address import split_address
from pipeline.training.launch import notes
from pipeline.training.launch.failure import Failure
from pipeline.training.launch.notes import HostState, NoteStore, Order

PROBE_SECONDS = 1.0
"""Seconds between two attempts to reach a first host that does not listen yet."""
_PATIENCE = 1.5
"""How much longer than another host the first one may be silent, which has more to do."""
_ORDER_SECONDS = 25.0
"""Seconds until its first order, which it writes when it begins to listen."""
_LEAVE_SECONDS = 5.0


class FirstHost:
    """Exchanges notes with the first host in a thread of its own: a host that is cut off answers never, not with an error."""

    def __init__(self, address: str, own_ip: str) -> None:
        self.own_ip, self.name = own_ip, socket.gethostname()
        self._notes = NoteStore.connect(address)
        self.number = self._notes.enter()
        self._state = HostState(kind="waiting", name=self.name)
        self._order: Order | None = None
        self._changed, self._error = time.monotonic(), ""
        self._leaving = threading.Event()
        self._thread = threading.Thread(target=self._exchange, daemon=True)
        self._thread.start()

    @classmethod
    def wait_for(cls, address: str, is_cancelled: Callable[[], bool]) -> FirstHost | None:
        """Waits until the first host listens, or until it is cancelled."""
        while not is_cancelled():
            try:
                with socket.create_connection(split_address(address), timeout=2) as probe:
                    own_ip = probe.getsockname()[0]
                return cls(address, own_ip)
            except (OSError, RuntimeError):
                time.sleep(PROBE_SECONDS)
        return None

    @property
    def round(self) -> int:
        """Number of the last round that this host took part in."""
        return self._state.round

    def order(self) -> Order | None:
        """Returns the latest note of the first host."""
        return self._order

    def lost(self) -> str | None:
        """Returns what is wrong with the first host, if anything."""
        if self._error:
            return f"closed the connection ({self._error})"
        seconds = time.monotonic() - self._changed
        most = _PATIENCE * self._order.host_timeout if self._order else _ORDER_SECONDS
        return f"has been silent for {seconds:.0f} s" if seconds > most else None

    def tell(
        self,
        kind: Literal["waiting", "running", "ended", "left"],
        round_number: int | None = None,
        failures: Sequence[Failure] = (),
    ) -> None:
        """Changes what the first host reads of this one."""
        number = self.round if round_number is None else round_number
        self._state = HostState(kind=kind, name=self.name, round=number, failures=tuple(failures))

    def leave(self) -> None:
        """Tells the first host, unless it is lost, that this one goes, with what it last told of its ranks."""
        self._state = self._state.model_copy(update={"kind": "left"})
        self._leaving.set()
        if self.lost() is None:
            self._thread.join(_LEAVE_SECONDS)

    def _exchange(self) -> None:
        beat = 0
        try:
            while True:
                beat, leaving = beat + 1, self._leaving.is_set()
                self._notes.write_state(self.number, self._state.model_copy(update={"beat": beat}))
                if leaving:
                    return
                order = self._notes.order()
                if order is not None and (self._order is None or order.beat != self._order.beat):
                    self._order, self._changed = order, time.monotonic()
                self._leaving.wait(notes.TICK_SECONDS)
        except RuntimeError as error:
            self._error = str(error).splitlines()[0]
