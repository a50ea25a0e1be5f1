"""The other hosts of a training, as the first one sees and directs them. On one host there are none."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from pipeline.training.address import resolve
from pipeline.training.launch import notes
from pipeline.training.launch.failure import Failure
from pipeline.training.launch.notes import HostState, NoteStore, Order
from pipeline.training.settings import TrainingSettings
from storage.errors import RetryableError

GATHER_SECONDS = 600.0
"""Longest time to wait for hosts that are missing at the start of a round."""
_LEAVE_SECONDS = 5.0


class Hosts:
    """Opens the store at `settings.address` for the time of a `with` block, and tells the hosts at its end how it ended."""

    def __init__(self, settings: TrainingSettings, config_file: Path) -> None:
        self._settings = settings
        self._notes = NoteStore.listen(settings.address or "") if settings.hosts > 1 else None
        digest = hashlib.sha256(config_file.read_bytes()).hexdigest()
        self._order = Order(kind="wait", config=str(config_file), digest=digest, host_timeout=settings.host_timeout)
        self._states: dict[int, HostState] = {}
        self._changed: dict[int, float] = {}
        self._next_tick = 0.0
        self._give("wait")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Says how the training ended, and stays until all hosts know: the store ends with this process."""
        if self._notes is None:
            return
        with suppress(RuntimeError):
            if error is None:
                self._give("finished")
            else:
                self._give("failed", str(error) or repr(error))
            self._wait(lambda: not self._with(lambda state: state.kind != "left"), _LEAVE_SECONDS)
        # Whoever keeps the error keeps this object, and must not keep the port from the next attempt.
        self._notes.close()

    @property
    def timeout(self) -> float:
        """Seconds until the loss of another host is noticed. 0 where there can be none."""
        return 0.0 if self._notes is None else self._settings.host_timeout

    @property
    def round(self) -> int:
        """Number of the current round."""
        return self._order.round

    def tick(self) -> None:
        """Writes the own note again and reads the others' when it is time. Call it often."""
        now = time.monotonic()
        if self._notes is None or now < self._next_tick:
            return
        self._next_tick = now + notes.TICK_SECONDS
        self._order = self._order.model_copy(update={"beat": self._order.beat + 1})
        self._notes.write_order(self._order)
        for number, state in self._notes.states().items():
            if number not in self._states or state.beat != self._states[number].beat:
                self._changed[number] = now
            self._states[number] = state

    def gather(self, wanted: int, note: Callable[[str], None]) -> tuple[int, ...]:
        """Waits until `wanted` hosts are free, and returns the numbers of all that are, this one first.

        At most `settings.hosts` are taken. Raises `RetryableError` when too few come.
        """
        if self._notes is None:
            return (0,)
        self._give("wait")
        if not self._is_gathered(wanted):
            note(f"waiting until {wanted} hosts have joined {self._settings.address}")
        if not self._wait(lambda: self._is_gathered(wanted), GATHER_SECONDS):
            here, address = 1 + len(self._free()), self._settings.address or ""
            raise RetryableError(
                f"{here} of {wanted} hosts joined {address} (here {resolve(address)}) within {GATHER_SECONDS:.0f} s; run "
                f"`rlip join {address} STORE` on the others"
            )
        return (0, *self._free()[: self._settings.hosts - 1])

    def start_round(self, members: tuple[int, ...]) -> None:
        """Lets the members start their ranks."""
        self._order = self._order.model_copy(update={"round": self._order.round + 1, "members": members})
        self._give("run")

    def ask(self) -> None:
        """Lets all ranks write a checkpoint and end."""
        self._give("stop")

    def end_round(self) -> None:
        """Lets all members end their ranks at once."""
        with suppress(RuntimeError):
            self._give("end")

    def ended(self) -> bool:
        """Whether no rank of another host can still run in this round."""
        return all(self._is_silent(number) or self._has_ended(number) for number in self._others())

    def failures(self) -> list[Failure]:
        """Returns the failures of this round that other hosts tell, and those of hosts that are lost."""
        found: list[Failure] = []
        for number in self._others():
            state = self._states[number]
            if state.round == self.round:
                found += state.failures
            if self._is_silent(number) and not self._has_ended(number):
                message = f"host {state.name} has been silent for {self._settings.host_timeout:.0f} s (is it down, or cut off?)"
                found.append(Failure(rank=None, host=state.name, kind="retry", message=message))
        return found

    def _others(self) -> tuple[int, ...]:
        return self._order.members[1:]

    def _has_ended(self, number: int) -> bool:
        state = self._states[number]
        return state.kind == "left" or (state.round == self.round and state.kind == "ended")

    def _is_silent(self, number: int) -> bool:
        return time.monotonic() - self._changed[number] > self._settings.host_timeout

    def _with(self, holds: Callable[[HostState], bool]) -> list[int]:
        """Returns the hosts that are there and in a certain state."""
        return [n for n, state in sorted(self._states.items()) if holds(state) and not self._is_silent(n)]

    def _free(self) -> list[int]:
        return self._with(lambda state: state.kind in ("waiting", "ended"))

    def _is_gathered(self, wanted: int) -> bool:
        # A host that still ends its ranks is about to be free, or about to be found silent.
        return 1 + len(self._free()) >= wanted and not self._with(lambda state: state.kind == "running")

    def _give(self, kind: str, message: str = "") -> None:
        self._order = self._order.model_copy(update={"kind": kind, "message": message})
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
