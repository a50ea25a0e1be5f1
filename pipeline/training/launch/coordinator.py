"""The coordinator of a training run, as another node sees it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Literal

from pipeline.training.address import split_address
from pipeline.training.launch import messages
from pipeline.training.launch.failure import Failure
from pipeline.training.launch.messages import Command, MessageStore, NodeState

PROBE_SECONDS = 1.0
"""Seconds between two attempts to reach a coordinator that does not listen yet."""
_PATIENCE = 1.5
"""How much longer than another node the first one may be silent, which has more to do."""
_COMMAND_SECONDS = 25.0
"""Seconds until its first command, which it writes when it begins to listen."""
_LEAVE_SECONDS = 5.0


class Coordinator:
    """Exchanges messages with the coordinator in a thread of its own: a node that is cut off answers never, not with an error."""

    def __init__(self, address: str, own_ip: str) -> None:
        self.own_ip, self.name = own_ip, socket.gethostname()
        self._messages = MessageStore.connect(address)
        self.number = self._messages.enter()
        self._state = NodeState(kind="waiting", name=self.name)
        self._command: Command | None = None
        self._changed, self._error = time.monotonic(), ""
        self._leaving = threading.Event()
        self._thread = threading.Thread(target=self._exchange, daemon=True)
        self._thread.start()

    @classmethod
    def wait_for(cls, address: str, is_cancelled: Callable[[], bool]) -> Coordinator | None:
        """Waits until the coordinator listens, or until it is cancelled."""
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
        """Number of the last round that this node took part in."""
        return self._state.round

    def command(self) -> Command | None:
        """Returns the latest message of the coordinator."""
        return self._command

    def lost(self) -> str | None:
        """Returns what is wrong with the coordinator, if anything."""
        if self._error:
            return f"closed the connection ({self._error})"
        seconds = time.monotonic() - self._changed
        most = _PATIENCE * self._command.node_timeout if self._command else _COMMAND_SECONDS
        return f"has been silent for {seconds:.0f} s" if seconds > most else None

    def tell(
        self,
        kind: Literal["waiting", "running", "ended", "left"],
        round_number: int | None = None,
        failures: Sequence[Failure] = (),
    ) -> None:
        """Changes what the coordinator reads of this one."""
        number = self.round if round_number is None else round_number
        self._state = NodeState(kind=kind, name=self.name, round=number, failures=tuple(failures))

    def leave(self) -> None:
        """Tells the coordinator, unless it is lost, that this one goes, with what it last told of its ranks."""
        self._state = self._state.model_copy(update={"kind": "left"})
        self._leaving.set()
        if self.lost() is None:
            self._thread.join(_LEAVE_SECONDS)

    def _exchange(self) -> None:
        heartbeat = 0
        try:
            while True:
                heartbeat, leaving = heartbeat + 1, self._leaving.is_set()
                self._messages.write_state(self.number, self._state.model_copy(update={"heartbeat": heartbeat}))
                if leaving:
                    return
                command = self._messages.command()
                if command is not None and (self._command is None or command.heartbeat != self._command.heartbeat):
                    self._command, self._changed = command, time.monotonic()
                self._leaving.wait(messages.TICK_SECONDS)
        except RuntimeError as error:
            self._error = str(error).splitlines()[0]
