"""A run's progress: its steps in DAG order with rows read and written and time taken, cached until the run changes."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipeline.report.steps import StepSummary
from pipeline.stages.order import chain_order
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


class RunProgress:
    """The steps of a run. `planned`: step → the steps that it needs, from the run's recipe; empty if unknown.

    The steps are read again, with all manifests, only after the run has changed. Thread-safe.
    """

    def __init__(self, run: Run, planned: Mapping[str, Collection[str]]) -> None:
        self._run, self._planned = run, planned
        self._lock = threading.Lock()
        self._stamp: Any = None
        self._steps: tuple[StepProgress, ...] = ()

    def steps(self) -> tuple[StepProgress, ...]:
        """The steps of the recipe and of the run, each after the steps that it needs."""
        with self._lock:
            stamp = [file_stamps(self._run.folder / folder) for folder in ("steps", "records")]
            if stamp != self._stamp:
                self._steps = tuple(_progress(self._run, self._planned))
                self._stamp = stamp
            return self._steps


def _progress(run: Run, planned: Mapping[str, Collection[str]]) -> Iterator[StepProgress]:
    keys = {step: run.keys(step) for step in run.steps()}
    artifacts = {step: list(run.artifacts(step).values()) for step in keys}
    records = run.records()
    last: Mapping[str, Any] = records[-1].facts if records else {}
    outcome = {row["step"]: row for row in last.get("outcome") or ()}
    names = list(planned) + sorted(keys.keys() - planned.keys(), key=chain_order)
    has_ended = last.get("status") in ("failed", "stopped")
    ended = next((name for name in names if name not in outcome), None) if has_ended else None
    for name in names:
        # Where the recipe is unknown, the inputs of one of the step's artifacts tell what it needs.
        read = {key for one in artifacts.get(name, ())[:1] for found in one.manifest.upstream.values() for key in found}
        made_of = (step for step, own in keys.items() if step != name and read & set(own.values()))
        needs = tuple(sorted(planned.get(name, made_of), key=chain_order))
        state: State = "done" if name in keys else "not yet"
        problem = ""
        if name == ended and not _is_newer(run, name):
            state, problem = last["status"], str(last.get("error", ""))
        if not keys.get(name):
            yield StepProgress(name, state, needs, problem)
            continue
        summary = StepSummary.of(name, artifacts[name])
        if state == "done" and summary.partitions < len(keys[name]):
            state = "incomplete"
        cached, rejected = outcome.get(name, {}).get("cached"), sum(summary.rejected.values())
        yield StepProgress(
            name, state, needs, problem, partitions=len(keys[name]), done=summary.partitions, cached=cached,
            rows_in=summary.rows_in, rows_out=summary.rows_out, rejected=rejected, seconds=summary.seconds,
        )  # fmt: skip


def _is_newer(run: Run, step: str) -> bool:
    """Whether a running execution recorded the step after the last execution ended."""
    records = file_stamps(run.folder / "records")
    steps = {name: changed for name, changed, _ in file_stamps(run.folder / "steps")}
    return steps.get(f"{step.replace(':', '.')}.json", 0) > max((changed for _, changed, _ in records), default=0)


def file_stamps(folder: Path) -> list[tuple[str, int, int]]:
    """Name, modification time and size of each JSON file of a folder, which reveal that a run has changed."""
    found = []
    for path in sorted(folder.glob("*.json")):
        with suppress(FileNotFoundError):
            state = path.stat()
            found.append((path.name, state.st_mtime_ns, state.st_size))
    return found
