"""Runs the ranks of a node other than the first."""

from __future__ import annotations

import hashlib
import signal
import time
from pathlib import Path

from pipeline.training.address import split_address
from pipeline.training.config import TrainConfig
from pipeline.training.launch.coordinator import Coordinator
from pipeline.training.launch.failure import Failure
from pipeline.training.launch.meeting import interface_of, require_gpus, tcp_store
from pipeline.training.launch.messages import Command
from pipeline.training.launch.rank_processes import WORKER, Placement, RankProcesses
from storage.errors import FatalError

FINISHED, FAILED, COORDINATOR_LOST = 0, 1, 3
"""Exit codes. A node that is asked to leave ends like one whose training finished."""
_CONFIG_SECONDS = 10.0
"""A shared file system may show a new file late."""

NEXT_SECONDS = 5.0
"""Seconds in which the coordinator closes the store of a training run that is over."""


class Agent:
    """Does on this node what the coordinator of a training commands. It must be used in the main thread."""

    def __init__(self, address: str, folder: Path, worker: str = WORKER) -> None:
        self._address, self._folder, self._worker = address, folder, worker
        self._ranks: RankProcesses | None = None
        self._asked_at: float | None = None
        self._stop_timeout = 0.0
        self.leaving = False
        """Whether this process was asked to end."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def run(self) -> int:
        """Takes part in one training. Returns the exit code.

        Waits without limit until the coordinator listens. SIGTERM lets the whole training write a checkpoint and stop.
        """
        print(f"waiting for a training at {self._address}", flush=True)
        first = Coordinator.wait_for(self._address, lambda: self.leaving)
        if first is None:
            return FINISHED
        print(f"joined it as node {first.number}", flush=True)
        try:
            return self._follow(first)
        finally:
            if self._ranks:
                self._ranks.kill()
            first.leave()

    def pause(self) -> None:
        """Waits before the next training, unless this process was asked to end."""
        until = time.monotonic() + NEXT_SECONDS
        while not self.leaving and time.monotonic() < until:
            time.sleep(0.1)

    def _on_signal(self, _number: int, _frame: object) -> None:
        self.leaving = True

    def _follow(self, first: Coordinator) -> int:
        while True:
            lost = first.lost()
            if lost is not None:
                print(f"the coordinator at {self._address} {lost}: its training ends here as well", flush=True)
                return COORDINATOR_LOST
            command = first.command()
            if command is not None and command.kind in ("finished", "failed"):
                print(f"the training {command.kind}" + (f": {command.message}" if command.message else ""), flush=True)
                return FINISHED if command.kind == "finished" else FAILED
            if self.leaving and self._is_free_to_leave():
                print("asked to leave", flush=True)
                return FINISHED
            if command is not None and not self.leaving:
                self._obey(command, first)
            if self._ranks:
                first.tell("ended" if self._ranks.ended() else "running", failures=self._ranks.failures())
            time.sleep(0.1)

    def _is_free_to_leave(self) -> bool:
        """Asks the ranks to stop, and with them those of all nodes. Returns whether they ended or their time is over."""
        if self._ranks is None:
            return True
        self._ask()
        return self._ranks.ended() or time.monotonic() - (self._asked_at or 0.0) > self._stop_timeout

    def _obey(self, command: Command, first: Coordinator) -> None:
        if command.kind == "run" and command.round > first.round and first.number in command.members:
            if self._ranks:
                self._ranks.kill()
            self._ranks, self._asked_at = None, None
            try:
                self._ranks = self._start(command, first)
                first.tell("running", command.round)
            except (FatalError, OSError) as error:
                failure = Failure(rank=None, node=first.name, kind="fatal", message=f"node {first.name}: {error}")
                first.tell("ended", command.round, [failure])
        elif command.kind == "stop" and self._ranks:
            self._ask()
        elif command.kind == "end" and self._ranks:
            self._ranks.kill()

    def _ask(self) -> None:
        if self._ranks and self._asked_at is None:
            self._asked_at = time.monotonic()
            self._ranks.ask()

    def _start(self, command: Command, first: Coordinator) -> RankProcesses:
        config = TrainConfig.model_validate_json(self._read_config(command))
        require_gpus(config.settings)
        self._stop_timeout = config.settings.stop_timeout
        processes = config.settings.processes
        placement = Placement(
            first=command.members.index(first.number) * processes,
            count=len(command.members) * processes,
            store=tcp_store(self._address, command.round),
            interface=interface_of(first.own_ip),
            node=first.name,
        )
        log = config.work / f"train-{first.number}.log"
        return RankProcesses(Path(command.config), config, placement, log, self._worker)

    def _read_config(self, command: Command) -> bytes:
        path = Path(command.config).resolve()
        if not path.is_relative_to(self._folder.resolve()):
            raise FatalError(f"{path} is not in {self._folder}; join with the folder of the coordinator's store")
        deadline = time.monotonic() + _CONFIG_SECONDS
        while True:
            content = path.read_bytes() if path.is_file() else b""
            if hashlib.sha256(content).hexdigest() == command.digest:
                return content
            if time.monotonic() > deadline:
                raise FatalError(
                    f"{path} is not there or differs from that of the coordinator; all nodes must see the same file system "
                    "under the same path"
                )
            time.sleep(0.5)


def join(address: str, folder: Path, stay: bool = False, worker: str = WORKER) -> int:
    """Takes part in the training of the coordinator at `address`; `folder` is its store, or a folder in it, on a file system
    that all nodes share.

    Returns the exit code: 0 when the training finished or this process was asked to leave, 1 when it failed, 3 when the first
    node is lost. With `stay`, it waits for the next training instead, until it is asked to leave. Relative paths in the
    settings must mean the same here as on the coordinator: start both in the same folder. Raises `FatalError` for an address
    that is none.
    """
    try:
        split_address(address)
    except ValueError as error:
        raise FatalError(str(error)) from error
    agent = Agent(address, folder, worker)
    while True:
        code = agent.run()
        if not stay or agent.leaving:
            return code
        agent.pause()
