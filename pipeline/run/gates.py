"""Gates: which partitions of a step may be read, and which the steps below leave out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from pipeline.run.check_settings import CheckSettings
from pipeline.run.checks import CHECKED, CheckResult, Measured, checks_of, judge, recorded_checks
from pipeline.run.dag import Step
from pipeline.runtime.logs import log
from storage.artifact import Artifact
from storage.errors import FatalError
from storage.runs import Run

InputsOf = Callable[[str], Mapping[str, Artifact]]
"""Partition → the artifacts that it was made from, by table."""


class Gates:
    """Judges the partitions of steps, each artifact once, and knows which partitions are held back, and why."""

    def __init__(self, run: Run, settings: CheckSettings) -> None:
        self._run, self._settings = run, settings
        self._noted: dict[str, Any] | None = None
        self._failed: dict[tuple[str, str], str] = {}
        """Step and key of an artifact → the checks that it failed, in words; "" for one that passed."""
        self.held: dict[str, dict[str, str]] = {}
        """Step → partition that it leaves out → the failed check above it."""

    def judge(self, step: Step, made: Mapping[str, Artifact], inputs_of: InputsOf) -> dict[str, list[CheckResult]]:
        """Judge the partitions of a step. Returns partition → results; empty if the settings ask for no check."""
        checks = checks_of(step.stage, self._settings)
        results: dict[str, list[CheckResult]] = {}
        for partition, artifact in made.items() if checks else ():
            found = judge(checks, Measured(artifact, inputs_of(partition)), self._known(step.name, artifact.key))
            results[partition] = found
            failed = "; ".join(result.in_words for result in found if not result.passed)
            self._failed[step.name, artifact.key] = (
                f"{step.name} {partition} failed its check: {failed}" if failed else ""
            )
        return results

    def note(self, step: Step, made: Mapping[str, Artifact], results: Mapping[str, list[CheckResult]]) -> None:
        """Keep the results with the run, in place of earlier ones of the step, and log what failed."""
        noted = self._notes()
        if not results and step.name not in noted:
            return
        noted[step.name] = {
            partition: {"key": made[partition].key, "results": [asdict(result) for result in found]}
            for partition, found in results.items()
        }
        self._run.note(CHECKED, {name: found for name, found in noted.items() if found})
        for partition, found in results.items():
            for result in found:
                if not result.passed:
                    fields = {
                        "partition": partition,
                        "check": result.check,
                        "value": result.value,
                        "limit": result.limit,
                    }
                    log.warning("check failed", extra={"fields": fields})

    def cause(self, step: Step, partition: str, made: Mapping[str, Artifact], inputs_of: InputsOf) -> str:
        """Why the partition of a step must not be read; "" if it may."""
        if partition in self.held.get(step.name, {}):
            return self.held[step.name][partition]
        artifact = made.get(partition)
        if artifact is None or not checks_of(step.stage, self._settings):
            return ""
        if (step.name, artifact.key) not in self._failed:
            self.judge(step, {partition: artifact}, inputs_of)
        return self._failed[step.name, artifact.key]

    def _known(self, step: str, key: str) -> dict[str, float | None]:
        for found in self._notes().get(step, {}).values():
            if found["key"] == key:
                return {result["check"]: result["value"] for result in found["results"]}
        return {}

    def _notes(self) -> dict[str, Any]:
        if self._noted is None:
            self._noted = self._run.read_document(CHECKED)
        return self._noted


def require_passed(run: Run, steps: list[Step]) -> None:
    """Raise `FatalError` that names the partitions of these steps that failed a check, after all others are done."""
    recorded = recorded_checks(run)
    failed = [
        f"{step.name} {partition}: {result.in_words}"
        for step in steps
        for partition, results in recorded.get(step.name, {}).items()
        for result in results
        if not result.passed
    ]
    if failed:
        more = f"\n  and {len(failed) - 10} more" if len(failed) > 10 else ""
        raise FatalError(
            f"{len(failed)} check(s) of partitions failed, which the steps below left out; all others are done:\n  "
            + "\n  ".join(failed[:10])
            + f"{more}\n`rlip show {run.name} --checks` shows them all. "
            "Fix the data, or loosen [run.checks], which recomputes nothing"
        )
