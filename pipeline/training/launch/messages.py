"""The messages of nodes, as JSON in a store: a command of the coordinator to all, and the state of each other node.

A message is a state, not an event: it is written again and again with a higher heartbeat, so that missing one does no
harm, and a writer whose heartbeat stands still is known to be gone.
"""

from __future__ import annotations

import socket
from datetime import timedelta
from typing import Literal

import torch.distributed as dist
from pydantic import ValidationError

from pipeline.runtime.settings import Settings, resolve, split_address
from pipeline.training.launch.failure import Failure
from storage.errors import FatalError

TICK_SECONDS = 0.5
"""Seconds between two writes of a message."""
_STORE_TIMEOUT = timedelta(seconds=10)
_FIRST, _COUNT, _OTHER = "first", "nodes", "node-"
_MOST_NODES = 4096


class Command(Settings):
    """What the coordinator tells the other nodes to do."""

    heartbeat: int = 0
    kind: Literal["wait", "run", "stop", "end", "finished", "failed"]
    """wait: for the next round. run: train in round `round`. stop: make the ranks write a checkpoint and end. end: end
    them at once. finished, failed: the training run is over."""
    round: int = 0
    members: tuple[int, ...] = ()
    """Numbers of the nodes in the round. The coordinator is 0."""
    node_timeout: float
    """Seconds for which a node may be silent."""
    config: str = ""
    """Path of the configuration file on the shared file system."""
    digest: str = ""
    """SHA-256 of the configuration file."""
    message: str = ""
    """Why the training run failed."""


class NodeState(Settings):
    """What another node reports to the coordinator."""

    heartbeat: int = 0
    name: str
    kind: Literal["waiting", "running", "ended", "left"]
    """waiting: for a round. running, ended: the ranks of round `round`. left: the node has left, and may join again
    under another number."""
    round: int = 0
    failures: tuple[Failure, ...] = ()
    """Failures of the ranks of round `round`."""


class MessageStore:
    """Reads and writes the messages. Every method raises `RuntimeError` when the coordinator can't be reached."""

    def __init__(self, store: dist.TCPStore) -> None:
        self._store = store

    @classmethod
    def listen(cls, address: str) -> MessageStore:
        """Opens the store on exactly this address. Raises `FatalError` when this machine cannot listen there."""
        try:
            place = (resolve(address), split_address(address)[1])
            family = socket.AF_INET6 if ":" in place[0] else socket.AF_INET
            listener = socket.create_server(place, family=family, backlog=128)
        except OSError as error:
            raise FatalError(
                f"address = {address}: can't listen there ({error.strerror}); name an address of this machine and a "
                "free port"
            ) from error
        # Left to itself, torch listens on all interfaces. Its libuv server survives clients that send half a request.
        return cls(
            dist.TCPStore(*place, None, True, _STORE_TIMEOUT, False, master_listen_fd=listener.detach(), use_libuv=True)
        )

    @classmethod
    def connect(cls, address: str) -> MessageStore:
        """Connects to the store of the coordinator."""
        host, port = split_address(address)
        return cls(dist.TCPStore(host, port, None, False, _STORE_TIMEOUT))

    def close(self) -> None:
        """Closes the connection, and the port if this is the coordinator."""
        del self._store

    def enter(self) -> int:
        """Returns a number that no other node of this training run has."""
        return self._store.add(_COUNT, 1)

    def write_command(self, command: Command) -> None:
        """Writes the command of the coordinator."""
        self._store.set(_FIRST, command.model_dump_json())

    def command(self) -> Command | None:
        """Reads the command of the coordinator, if there is one."""
        text = self._read(_FIRST)
        try:
            return Command.model_validate_json(text) if text else None
        except ValidationError:
            return None

    def write_state(self, number: int, state: NodeState) -> None:
        """Writes the state of another node."""
        self._store.set(f"{_OTHER}{number}", state.model_dump_json())

    def states(self) -> dict[int, NodeState]:
        """Reads the states of all other nodes, except invalid ones."""
        states = {}
        # Anyone who connects can write any number.
        for number in range(1, min(self._store.add(_COUNT, 0), _MOST_NODES) + 1):
            try:
                states[number] = NodeState.model_validate_json(self._read(f"{_OTHER}{number}"))
            except ValidationError:
                continue
        return states

    def _read(self, key: str) -> bytes:
        return self._store.get(key) if self._store.check([key]) else b""
