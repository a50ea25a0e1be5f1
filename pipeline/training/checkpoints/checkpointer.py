"""Saves and restores training runs: small states at once, large ones by a process of their own (docs/training.md)."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from pipeline.training.checkpoints.folder import FORMAT, CheckpointFolder
from pipeline.training.checkpoints.snapshot import Snapshot
from pipeline.training.checkpoints.state import TrainingState
from pipeline.training.checkpoints.writer import Request, answer, give_up
from pipeline.training.config import CHECKPOINTS, METRICS_LOG
from pipeline.training.ranks import Ranks
from pipeline.training.settings import TrainingSettings
from storage.errors import FatalError

MIB = 2**20


class Checkpointer:
    """The checkpoints of one training. A failed write never stops it: the next one is another try."""

    def __init__(
        self,
        state: TrainingState,
        settings: TrainingSettings,
        work: Path,
        ranks: Ranks,
        is_sharded: bool,
        warn: Callable[[str], None],
    ) -> None:
        """`warn` tells a person, in a sentence, that a checkpoint could not be written or was damaged."""
        self._state, self._settings, self._ranks, self._warn = state, settings, ranks, warn
        self._folder = CheckpointFolder(work / CHECKPOINTS)
        self._parts = ranks.count if is_sharded else 1
        self._snapshot: Snapshot | None = None
        self._writer: subprocess.Popen[str] | None = None
        self._writing: int | None = None
        self.waited = 0.0
        """Seconds for which the training stood still for checkpoints."""
        self.written: int | None = None
        """Step of the newest checkpoint."""

    def steps(self) -> Iterator[int]:
        """Yields the steps that have a checkpoint, newest first. The folder is only read when the first is asked for."""
        yield from self._folder.steps()

    def load(self) -> dict[str, Any] | None:
        """Restores the newest sound checkpoint. Returns what `save` was given as `about`; None where there is no checkpoint.

        Damaged ones are told of and set aside. Raises `FatalError` for one of another network or version.
        """
        chosen, record, complaints = self._ranks.agreed(self._choose() if self._ranks.rank == 0 else (0, {}, []))
        for complaint in complaints if self._ranks.rank == 0 else ():
            self._warn(complaint)
        if not record:
            return None
        path = self._folder.path(chosen)
        if record["format"] != FORMAT:
            raise FatalError(
                f"{path}: has checkpoint format {record['format']}, but this version reads {FORMAT}; remove the folder to train "
                "from the beginning"
            )
        try:
            self._state.load(path)
        except ValueError as error:
            raise FatalError(f"{path}: {error}; remove it to train from the beginning") from error
        self.written = chosen
        about: dict[str, Any] = record["about"]
        return about

    def _choose(self) -> tuple[int, dict[str, Any], list[str]]:
        self._folder.discard_unfinished()
        complaints: list[str] = []
        for step in self._folder.steps():
            try:
                return step, self._folder.record(step), complaints
            except ValueError as error:
                complaints.append(f"checkpoint {self._folder.path(step).name} is damaged and left out: {error}")
                self._folder.set_aside(step)
        if complaints:
            complaints.append("no checkpoint is sound: training from the beginning")
        return 0, {}, complaints

    def save(self, step: int, about: dict[str, Any], spared: Collection[int] = ()) -> None:
        """Copies the state, and has it written while the training goes on. It only waits for an unfinished earlier write.

        `spared`: steps whose checkpoints stay, however old.
        """
        self.finish()
        started = time.monotonic()
        tensors = self._state.tensors(self._ranks.rank if self._parts > 1 else 0)
        if self._ranks.rank < self._parts:
            self._writing = step
            try:
                self._snapshot = self._snapshot or Snapshot()
                size = self._snapshot.take(tensors)
            except OSError as error:
                self._end({"error": f"no memory for a copy of the weights: {error.strerror}"})
            else:
                self._write(self._request(step, size, about, spared), self._snapshot)
        self.waited += time.monotonic() - started

    def _request(self, step: int, size: int, about: dict[str, Any], spared: Collection[int]) -> Request:
        return Request(
            folder=str(self._folder.path(step).parent),
            step=step,
            rank=self._ranks.rank,
            parts=self._parts,
            bytes=size,
            state={"about": about},
            keep=self._settings.keep_checkpoints,
            keep_every=self._settings.milestone_every,
            spared=list(spared),
            beside=[METRICS_LOG],
        )

    def _write(self, request: Request, snapshot: Snapshot) -> None:
        if request["bytes"] < self._settings.write_aside * MIB:
            self._end(answer(request, snapshot.file))
        else:
            self._ask(request, snapshot)

    def finish(self) -> None:
        """Waits until the write under way is done, and warns if it failed."""
        if self._writing is None:
            return
        assert self._writer is not None and self._writer.stdout is not None
        started = time.monotonic()
        line = self._writer.stdout.readline()
        self.waited += time.monotonic() - started
        if line:
            self._end(json.loads(line))
            return
        code = self._writer.wait()
        self._writer = None
        self._end({"error": f"the process that writes it ended with exit code {code}"})

    def close(self) -> None:
        """Waits for the write under way and ends the writer."""
        self.finish()
        if self._writer is not None:
            assert self._writer.stdin is not None
            self._writer.stdin.close()
            self._writer.wait()
        if self._snapshot is not None:
            self._snapshot.close()

    def _ask(self, request: Request, snapshot: Snapshot) -> None:
        if self._writer is None:
            self._writer = subprocess.Popen(
                [sys.executable, "-m", "pipeline.training.checkpoints.writer", str(snapshot.file)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=[snapshot.file],
                text=True,
            )
        assert self._writer.stdin is not None
        try:
            self._writer.stdin.write(json.dumps(request) + "\n")
            self._writer.stdin.flush()
        except BrokenPipeError:
            pass  # `finish` finds that it has ended

    def _end(self, result: dict[str, str]) -> None:
        step, self._writing = self._writing, None
        assert step is not None
        if "error" in result:
            give_up(self._folder, step, self._ranks.rank, self._parts)
            last = f"the last one is of step {self.written}" if self.written else "there is none before it"
            self._warn(f"the checkpoint of step {step} could not be written ({result['error']}); {last}")
        else:
            self.written = step
