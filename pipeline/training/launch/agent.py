"""Runs the ranks of a node other than the coordinator."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from pipeline.runtime.settings import split_address
from pipeline.training.config import TrainConfig
from pipeline.training.launch import messages
from pipeline.training.launch.failure import Failure
from pipeline.training.launch.meeting import interface_of, require_gpus, tcp_store
from pipeline.training.launch.messages import Command, MessageStore, NodeState
from pipeline.training.launch.rank_processes import Placement, RankProcesses
from storage.digests import digest_bytes
from storage.errors import FatalError, first_line

FINISHED, FAILED, COORDINATOR_LOST = 0, 1, 3
"""Exit codes. A node that is asked to leave ends like one whose training run finished."""
PROBE_SECONDS = 1.0
"""Seconds between two attempts to reach a coordinator that does not listen yet."""
NEXT_SECONDS = 5.0
"""Seconds that the coordinator may take to close the store of a finished training run."""
_PATIENCE = 1.5
"""The coordinator may be silent for this many times as long as other nodes, because it has more to do."""
_COMMAND_SECONDS = 25.0
"""Seconds until its first command, which it writes when it begins to listen."""
_CONFIG_SECONDS = 10.0
"""A shared file system may show a new file late."""
_LEAVE_SECONDS = 5.0


def join(address: str, folder: Path, stay: bool = False) -> int:
    """Takes part in the training run of the coordinator at `address`; `folder` is its store, or a folder in it, on a
    file system that all nodes share.

    Returns the exit code: 0 when the training run finished or this process was asked to leave, 1 when it failed, 3 when
    the coordinator is lost. With `stay`, it waits for the next training run instead, until it is asked to leave.
    Relative paths in the settings must mean the same here as on the coordinator: start both in the same folder. Raises
    `FatalError` for an invalid address.
    """
    try:
        split_address(address)
    except ValueError as error:
        raise FatalError(str(error)) from error
    agent = Agent(address, folder)
    while True:
        code = agent.run()
        if not stay or agent.leaving:
            return code
        agent.pause()


class Agent:
    """Carries out on this node what the coordinator of a training run commands. It must be used in the main thread."""

    def __init__(self, address: str, folder: Path) -> None:
        self._address, self._folder = address, folder
        self._ranks: RankProcesses | None = None
        self._stop_requested_at: float | None = None
        self._stop_timeout = 0.0
        self.leaving = False
        """Whether this process was asked to end."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def run(self) -> int:
        """Takes part in one training run. Returns the exit code.

        Waits endlessly until the coordinator listens. SIGTERM makes the whole training run write a checkpoint and stop.
        """
        print(f"waiting for a training run at {self._address}", flush=True)
        coordinator = Coordinator.wait_for(self._address, lambda: self.leaving)
        if coordinator is None:
            return FINISHED
        print(f"joined it as node {coordinator.number}", flush=True)
        try:
            return self._follow(coordinator)
        finally:
            if self._ranks:
                self._ranks.kill()
            coordinator.leave()

    def pause(self) -> None:
        """Waits before the next training run, unless this process was asked to end."""
        until = time.monotonic() + NEXT_SECONDS
        while not self.leaving and time.monotonic() < until:
            time.sleep(0.1)

    def _on_signal(self, _number: int, _frame: object) -> None:
        self.leaving = True

    def _follow(self, coordinator: Coordinator) -> int:
        while True:
            lost = coordinator.lost()
            if lost is not None:
                print(f"the coordinator at {self._address} {lost}: its training run ends here as well", flush=True)
                return COORDINATOR_LOST
            command = coordinator.command
            if command is not None and command.kind in ("finished", "failed"):
                reason = f": {command.message}" if command.message else ""
                print(f"the training run {command.kind}{reason}", flush=True)
                return FINISHED if command.kind == "finished" else FAILED
            if self.leaving and self._is_free_to_leave():
                print("asked to leave", flush=True)
                return FINISHED
            if command is not None and not self.leaving:
                self._carry_out(command, coordinator)
            if self._ranks:
                kind: Literal["ended", "running"] = "ended" if self._ranks.ended() else "running"
                coordinator.send(kind, coordinator.round, self._ranks.failures())
            time.sleep(0.1)

    def _is_free_to_leave(self) -> bool:
        """Stops the ranks, and with them those of all nodes. Returns whether they ended or their time is over."""
        if self._ranks is None:
            return True
        self._request_stop()
        return self._ranks.ended() or time.monotonic() - (self._stop_requested_at or 0.0) > self._stop_timeout

    def _carry_out(self, command: Command, coordinator: Coordinator) -> None:
        # A command is read again and again, but starts each round once.
        if command.kind == "run" and command.round > coordinator.round and coordinator.number in command.members:
            if self._ranks:
                self._ranks.kill()
            self._ranks, self._stop_requested_at = None, None
            try:
                self._ranks = self._start(command, coordinator)
                coordinator.send("running", command.round)
            except (FatalError, OSError) as error:
                name = coordinator.own_name
                failure = Failure(rank=None, node=name, kind="fatal", message=f"node {name}: {error}")
                coordinator.send("ended", command.round, [failure])
        elif command.kind == "stop":
            self._request_stop()
        elif command.kind == "end" and self._ranks:
            self._ranks.kill()

    def _request_stop(self) -> None:
        if self._ranks and self._stop_requested_at is None:
            self._stop_requested_at = time.monotonic()
            self._ranks.request_stop()

    def _start(self, command: Command, coordinator: Coordinator) -> RankProcesses:
        config = TrainConfig.model_validate_json(self._read_config(command))
        require_gpus(config.settings)
        self._stop_timeout = config.settings.stop_timeout
        processes = config.settings.processes
        placement = Placement(
            first=command.members.index(coordinator.number) * processes,
            count=len(command.members) * processes,
            store=tcp_store(self._address, command.round),
            interface=interface_of(coordinator.own_ip),
            node=coordinator.own_name,
        )
        return RankProcesses(Path(command.config), config, placement, config.work / f"train-{coordinator.number}.log")

    def _read_config(self, command: Command) -> bytes:
        path = Path(command.config).resolve()
        # A program that poses as the coordinator must not choose what this node reads.
        if not path.is_relative_to(self._folder.resolve()):
            raise FatalError(f"{path} is not in {self._folder}; join with the folder of the coordinator's store")
        deadline = time.monotonic() + _CONFIG_SECONDS
        while True:
            content = path.read_bytes() if path.is_file() else b""
            if digest_bytes(content) == command.digest:
                return content
            if time.monotonic() > deadline:
                raise FatalError(
                    f"{path} is missing or differs from that of the coordinator; all nodes must see the same file "
                    "system under the same path"
                )
            time.sleep(0.5)


class Coordinator:
    """The coordinator of a training run, as another node sees it.

    Messages are exchanged in a separate thread: a node that is cut off gets no error, but never an answer.
    """

    def __init__(self, address: str, own_ip: str) -> None:
        self.own_ip, self.own_name = own_ip, socket.gethostname()
        self._messages = MessageStore.connect(address)
        self.number = self._messages.enter()
        self._state = NodeState(kind="waiting", name=self.own_name)
        self.command: Command | None = None
        """The latest command."""
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

    def lost(self) -> str | None:
        """Returns what is wrong with the coordinator, if anything."""
        if self._error:
            return f"closed the connection ({self._error})"
        seconds = time.monotonic() - self._changed
        most = _PATIENCE * self.command.node_timeout if self.command else _COMMAND_SECONDS
        return f"has been silent for {seconds:.0f} s" if seconds > most else None

    def send(self, kind: Literal["running", "ended"], round_number: int, failures: Sequence[Failure] = ()) -> None:
        """Changes the state of this node that the coordinator reads."""
        self._state = NodeState(kind=kind, name=self.own_name, round=round_number, failures=tuple(failures))

    def leave(self) -> None:
        """Tells the coordinator, unless it is lost, that this node leaves; the ranks' last state stays."""
        self._state = self._state.model_copy(update={"kind": "left"})
        self._leaving.set()
        if self.lost() is None:
            self._thread.join(_LEAVE_SECONDS)

    def _exchange(self) -> None:
        heartbeat = 0
        try:
            while True:
                # Asked before the write, so that the last state is sent before the thread ends.
                heartbeat, leaving = heartbeat + 1, self._leaving.is_set()
                self._messages.write_state(self.number, self._state.model_copy(update={"heartbeat": heartbeat}))
                if leaving:
                    return
                command = self._messages.command()
                if command is not None and (self.command is None or command.heartbeat != self.command.heartbeat):
                    self.command, self._changed = command, time.monotonic()
                self._leaving.wait(messages.TICK_SECONDS)
        except RuntimeError as error:
            self._error = first_line(error)
