"""Forecasts what a run would do with each step, and the first difference from what the run had before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from pipeline.run.checks import checks_of
from pipeline.run.dag import Step
from pipeline.run.planner import Planner
from pipeline.runtime.execute import WorkItem
from pipeline.runtime.stage import WHOLE, dataset_of
from storage.artifact import Artifact
from storage.keys import changes

_Causes = dict[str, str]
"""Partition → why it is due."""


@dataclass(frozen=True)
class StepForecast:
    """What a run would do with a step. `due` is None while not even its number of partitions is known."""

    step: str
    cached: int
    due: int | None
    why: str
    at_most: bool = False
    """Whether partitions count as due because what they read is due. They stay cached if it turns out as it was."""
    checks: tuple[str, ...] = ()
    """What each of its partitions must satisfy before a step may read it."""
    held: int = 0
    """Partitions that are left out because what they would read failed a check."""


def forecast(planner: Planner) -> Iterator[StepForecast]:
    """Yield the forecast of each step in the order of the chain. Computes nothing and writes only the stored partitioning."""
    settings = planner.context.recipe.run.checks
    checks = {step.name: checks_of(step.stage, settings) for step in planner.context.steps}
    for found in _forecast(planner):
        words = (f"{c.name} {'≥' if c.is_least else '≤'} {limit:g}" for c, limit in checks[found.step])
        yield replace(found, checks=tuple(words))


def _forecast(planner: Planner) -> Iterator[StepForecast]:
    context = planner.context
    first, root = context.steps[0], context.recipe.data.root
    if context.recipe.scenes is not None and not root.is_dir():
        yield StepForecast(first.name, 0, None, f"after the synthetic world is written to {root}")
        for step in context.steps[1:]:
            yield StepForecast(step.name, 0, None, f"after {', '.join(sorted(step.needs)) or first.name}")
        return
    pending: dict[str, _Causes] = {}
    blocked: dict[str, str] = {}
    for step in context.steps:
        above = (blocked[name] for name in sorted(step.needs) if name in blocked)
        if cause := next(above, "") or planner.blocked(step):
            blocked[step.name], planner.done[step.name], pending[step.name] = cause, {}, {}
            yield StepForecast(step.name, 0, 0, f"refused: {cause}")
            continue
        inherited = _inherited(planner, step, pending)
        cached, due = 0, {}
        if WHOLE not in inherited:
            plan = planner.plan(step, without=inherited)
            keys, before = context.run.keys(step.name), context.run.artifacts(step.name)
            cached, due = len(plan.cached), {item.partition: _why(item, keys, before) for item in plan.due}
        pending[step.name] = causes = due | inherited
        if WHOLE in inherited:
            planner.done[step.name] = {}
        why = next(iter(causes.values()), "")
        held = planner.gates.held.get(step.name, {})
        why = why or next((f"left out: {cause}" for cause in held.values()), "")
        yield StepForecast(step.name, cached, len(causes), why, at_most=bool(inherited), held=len(held))


def _inherited(planner: Planner, step: Step, pending: Mapping[str, _Causes]) -> _Causes:
    """The partitions of a step that wait for what they read, each with the first cause and the step where it lies."""
    found: _Causes = {}
    for table, names in {**step.reads, **step.uses}.items():
        for name in names:
            for partition, why in pending[name].items():
                cause = why if ": " in why and why.partition(": ")[0] in pending else f"{name}: {why}"
                if step.stage.whole:
                    wanted = step.from_datasets.get(table)
                    if wanted is None or dataset_of(partition) in wanted:
                        found.setdefault(WHOLE, cause)
                elif table in step.uses:
                    found = dict.fromkeys(_partitions(planner, step, pending), cause) | found
                elif dataset_of(partition) in step.datasets:
                    found.setdefault(partition, cause)
    return found


def _partitions(planner: Planner, step: Step, pending: Mapping[str, _Causes]) -> list[str]:
    """All partitions that a step will have."""
    upstream = next(iter(step.reads.values()))
    every = {partition for name in upstream for partition in (*planner.done[name], *pending[name])}
    return sorted(partition for partition in every if dataset_of(partition) in step.datasets)


def _why(item: WorkItem, keys: Mapping[str, str], before: Mapping[str, Artifact]) -> str:
    """The first term of the item's key that differs from the run's earlier artifact of the same partition."""
    if item.partition not in keys:
        return "new" if not keys else f"new partition {item.partition}"
    artifact = before.get(item.partition)
    changed = changes(artifact.manifest.terms, item.terms.as_json()) if artifact is not None else []
    return str(changed[0]) if changed else "its artifact was removed"
