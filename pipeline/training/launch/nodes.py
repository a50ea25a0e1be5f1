"""The other nodes of a training run, as the first one sees and directs them. On one node there are none."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from pipeline.training.address import resolve
from pipeline.training.launch import messages
from pipeline.training.launch.failure import Failure
from pipeline.training.launch.messages import Command, MessageStore, NodeState
from pipeline.training.settings import TrainingSettings
from storage.errors import RetryableError

GATHER_SECONDS = 600.0
"""Longest time to wait for nodes that are missing at the start of a round."""
_LEAVE_SECONDS = 5.0


class Nodes:
    """Opens the store at `settings.address` for the time of a `with` block, and tells the nodes at its end how it ended."""

    def __init__(self, settings: TrainingSettings, config_file: Path) -> None:
        self._settings = settings
        self._messages = MessageStore.listen(settings.address or "") if settings.nodes > 1 else None
        digest = hashlib.sha256(config_file.read_bytes()).hexdigest()
        self._command = Command(kind="wait", config=str(config_file), digest=digest, node_timeout=settings.node_timeout)
        self._states: dict[int, NodeState] = {}
        self._changed: dict[int, float] = {}
        self._next_tick = 0.0
        self._give("wait")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Says how the training ended, and stays until all nodes know: the store ends with this process."""
        if self._messages is None:
            return
        with suppress(RuntimeError):
            if error is None:
                self._give("finished")
            else:
                self._give("failed", str(error) or repr(error))
            self._wait(lambda: not self._with(lambda state: state.kind != "left"), _LEAVE_SECONDS)
        # Whoever keeps the error keeps this object, and must not keep the port from the next attempt.
        self._messages.close()

    @property
    def timeout(self) -> float:
        """Seconds until the loss of another node is noticed. 0 where there can be none."""
        return 0.0 if self._messages is None else self._settings.node_timeout

    @property
    def round(self) -> int:
        """Number of the current round."""
        return self._command.round

    def tick(self) -> None:
        """Writes its own message again and reads the others' when it is time. Call it often."""
        now = time.monotonic()
        if self._messages is None or now < self._next_tick:
            return
        self._next_tick = now + messages.TICK_SECONDS
        self._command = self._command.model_copy(update={"heartbeat": self._command.heartbeat + 1})
        self._messages.write_command(self._command)
        for number, state in self._messages.states().items():
            if number not in self._states or state.heartbeat != self._states[number].heartbeat:
                self._changed[number] = now
            self._states[number] = state

    def gather(self, wanted: int, note: Callable[[str], None]) -> tuple[int, ...]:
        """Waits until `wanted` nodes are free, and returns the numbers of all that are, this one first.

        At most `settings.nodes` are taken. Raises `RetryableError` when too few come.
        """
        if self._messages is None:
            return (0,)
        self._give("wait")
        if not self._is_gathered(wanted):
            note(f"waiting until {wanted} nodes have joined {self._settings.address}")
        if not self._wait(lambda: self._is_gathered(wanted), GATHER_SECONDS):
            here, address = 1 + len(self._free()), self._settings.address or ""
            raise RetryableError(
                f"{here} of {wanted} nodes joined {address} (here {resolve(address)}) within {GATHER_SECONDS:.0f} s; run "
                f"`rlip cluster join {address} STORE` on the others"
            )
        return (0, *self._free()[: self._settings.nodes - 1])

    def start_round(self, members: tuple[int, ...]) -> None:
        """Lets the members start their ranks."""
        self._command = self._command.model_copy(update={"round": self._command.round + 1, "members": members})
        self._give("run")

    def ask(self) -> None:
        """Lets all ranks write a checkpoint and end."""
        self._give("stop")

    def end_round(self) -> None:
        """Lets all members end their ranks at once."""
        with suppress(RuntimeError):
            self._give("end")

    def ended(self) -> bool:
        """Whether no rank of another node can still run in this round."""
        return all(self._is_silent(number) or self._has_ended(number) for number in self._others())

    def failures(self) -> list[Failure]:
        """Returns the failures of this round that other nodes tell, and those of nodes that are lost."""
        found: list[Failure] = []
        for number in self._others():
            state = self._states[number]
            if state.round == self.round:
                found += state.failures
            if self._is_silent(number) and not self._has_ended(number):
                message = f"node {state.name} has been silent for {self._settings.node_timeout:.0f} s (is it down, or cut off?)"
                found.append(Failure(rank=None, node=state.name, kind="retry", message=message))
        return found

    def _others(self) -> tuple[int, ...]:
        return self._command.members[1:]

    def _has_ended(self, number: int) -> bool:
        state = self._states[number]
        return state.kind == "left" or (state.round == self.round and state.kind == "ended")

    def _is_silent(self, number: int) -> bool:
        return time.monotonic() - self._changed[number] > self._settings.node_timeout

    def _with(self, holds: Callable[[NodeState], bool]) -> list[int]:
        """Returns the nodes that are there and in a certain state."""
        return [n for n, state in sorted(self._states.items()) if holds(state) and not self._is_silent(n)]

    def _free(self) -> list[int]:
        return self._with(lambda state: state.kind in ("waiting", "ended"))

    def _is_gathered(self, wanted: int) -> bool:
        # A node that still ends its ranks is about to be free, or about to be found silent.
        return 1 + len(self._free()) >= wanted and not self._with(lambda state: state.kind == "running")

    def _give(self, kind: str, message: str = "") -> None:
        self._command = self._command.model_copy(update={"kind": kind, "message": message})
        self._next_tick = 0.0
        self.tick()

    def _wait(self, reached: Callable[[], bool], seconds: float) -> bool:
        """Waits until a condition holds. Returns whether it does."""
        deadline = time.monotonic() + seconds
        while not reached():
            if time.monotonic() > deadline:
                return False
            self.tick()
            time.sleep(0.1)
        return True
