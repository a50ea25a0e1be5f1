"""A run's progress: its steps in DAG order with rows read and written and time taken, cached until the run changes."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipeline.report.steps import StepSummary
from pipeline.stages.order import chain_order
from storage.artifact import Artifact
from storage.runs import Run

State = Literal["done", "incomplete", "failed", "stopped", "not yet"]
"""incomplete: recorded artifacts are missing. failed, stopped: the last execution ended here. not yet: the run has not
recorded the step, which happens when all of its partitions are done."""


@dataclass(frozen=True)
class StepProgress:
    """One step of a run. Counts are None if the run has not recorded it."""

    step: str
    state: State
    needs: tuple[str, ...]
    """The steps whose artifacts it reads, or which must have passed before it."""
    problem: str = ""
    """The error that ended the last execution here."""
    partitions: int | None = None
    """Partitions that the run recorded."""
    done: int | None = None
    """Recorded partitions whose artifacts exist."""
    cached: int | None = None
    """Partitions that the last execution found in the store; None if it did not reach the step."""
    rows_in: int | None = None
    rows_out: int | None = None
    rejected: int | None = None
    seconds: float | None = None
    """Compute time, summed over the partitions."""

    @property
    def missing(self) -> int | None:
        """Recorded partitions whose artifacts are missing."""
        return None if self.partitions is None or self.done is None else self.partitions - self.done


class RunProgress:
    """The steps of a run. `planned`: step → the steps that it needs, from the run's recipe; empty if unknown.

    A step's manifests are read again only after the run has recorded it again. Thread-safe.
    """

    def __init__(self, run: Run, planned: Mapping[str, Collection[str]]) -> None:
        self._run, self._planned = run, planned
        self._lock = threading.Lock()
        self._summaries: dict[str, tuple[Any, StepSummary, dict[str, str], set[str]]] = {}
        self._stamp: Any = None
        self._steps: tuple[StepProgress, ...] = ()

    def steps(self) -> tuple[StepProgress, ...]:
        """The steps of the recipe and of the run, each after the steps that it needs."""
        with self._lock:
            stamp = [file_stamps(self._run.folder / folder) for folder in ("steps", "records")]
            if stamp != self._stamp:
                self._steps = self._read()
                self._stamp = stamp
            return self._steps

    def _read(self) -> tuple[StepProgress, ...]:
        recorded = set(self._run.steps())
        for step in recorded:
            self._summarise(step)
        records = self._run.records()
        last: Mapping[str, Any] = records[-1].facts if records else {}
        outcome = {row["step"]: row for row in last.get("outcome") or ()}
        names = list(self._planned) + sorted(recorded.difference(self._planned), key=chain_order)
        has_ended = last.get("status") in ("failed", "stopped")
        ended = next((name for name in names if name not in outcome), None) if has_ended else None
        found = []
        for name in names:
            state: State = "done" if name in recorded else "not yet"
            problem = ""
            if name == ended and not self._is_newer(name):
                state, problem = last["status"], str(last.get("error", ""))
            found.append(self._progress(name, state, problem, outcome.get(name)))
        return tuple(found)

    def _progress(self, name: str, state: State, problem: str, outcome: Mapping[str, Any] | None) -> StepProgress:
        if name not in self._summaries or not self._run.keys(name):
            return StepProgress(name, state, self._needs(name), problem)
        _, summary, keys, _ = self._summaries[name]
        if state == "done" and summary.partitions < len(keys):
            state = "incomplete"
        cached, rejected = (outcome or {}).get("cached"), sum(summary.rejected.values())
        return StepProgress(
            name, state, self._needs(name), problem, partitions=len(keys), done=summary.partitions, cached=cached,
            rows_in=summary.rows_in, rows_out=summary.rows_out, rejected=rejected, seconds=summary.seconds,
        )  # fmt: skip

    def _needs(self, name: str) -> tuple[str, ...]:
        """From the recipe or, if that is unknown, from the inputs of one of the step's artifacts."""
        if name in self._planned:
            return tuple(sorted(self._planned[name], key=chain_order))
        if name not in self._summaries:
            return ()
        upstream = self._summaries[name][3]
        others = ((step, keys) for step, (_, _, keys, _) in self._summaries.items() if step != name)
        return tuple(sorted((step for step, keys in others if upstream & set(keys.values())), key=chain_order))

    def _summarise(self, step: str) -> None:
        keys = self._run.keys(step)
        held = self._summaries.get(step)
        artifacts = self._run.artifacts(step)
        stamp = keys, sorted(artifacts)
        if held is None or held[0] != stamp:
            first: list[Artifact] = list(artifacts.values())[:1]
            upstream = {key for artifact in first for found in artifact.manifest.upstream.values() for key in found}
            self._summaries[step] = stamp, StepSummary.of(step, artifacts.values()), keys, upstream

    def _is_newer(self, step: str) -> bool:
        """Whether a running execution recorded the step after the last execution ended."""
        records = file_stamps(self._run.folder / "records")
        steps = {name: changed for name, changed, _ in file_stamps(self._run.folder / "steps")}
        return steps.get(f"{step.replace(':', '.')}.json", 0) > max((changed for _, changed, _ in records), default=0)


def file_stamps(folder: Path) -> list[tuple[str, int, int]]:
    """Name, modification time and size of each JSON file of a folder, which reveal that a run has changed."""
    found = []
    for path in sorted(folder.glob("*.json")):
        with suppress(FileNotFoundError):
            state = path.stat()
            found.append((path.name, state.st_mtime_ns, state.st_size))
    return found
