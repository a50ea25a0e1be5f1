"""Forecasts what a run would do with each step, and the first difference from what the run had before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pipeline.run.planner import Planner
from pipeline.runtime.execute import WorkItem
from storage.artifact import Artifact
from storage.changes import changes


@dataclass(frozen=True)
class StepForecast:
    """What a run would do with a step. `due` is None if it depends on an earlier step that must run first."""

    step: str
    cached: int
    due: int | None
    why: str


def forecast(planner: Planner) -> Iterator[StepForecast]:
    """Yield the forecast of each step in the order of the chain. Computes nothing and writes only the stored partitioning."""
    waiting: set[str] = set()
    context = planner.context
    first, root = context.steps[0].name, context.recipe.data.root
    if context.recipe.scenes is not None and not root.is_dir():
        waiting.add(first)
        yield StepForecast(first, 0, None, f"after the synthetic world is written to {root}")
    for step in context.steps:
        if step.name in waiting:
            continue
        blocked = sorted(step.needs & waiting)
        if blocked:
            waiting.add(step.name)
            yield StepForecast(step.name, 0, None, f"after {', '.join(blocked)}")
            continue
        plan = planner.plan(step)
        if plan.due:
            waiting.add(step.name)
        run = context.run
        why = _why(plan.due[0], run.keys(step.name), run.artifacts(step.name)) if plan.due else ""
        yield StepForecast(step.name, len(plan.cached), len(plan.due), why)


def _why(item: WorkItem, keys: Mapping[str, str], before: Mapping[str, Artifact]) -> str:
    """The first term of the item's key that differs from the run's earlier artifact of the same partition."""
    if item.partition not in keys:
        return "new" if not keys else f"new partition {item.partition}"
    artifact = before.get(item.partition)
    changed = changes(artifact.manifest.terms, item.terms.as_json()) if artifact is not None else []
    return str(changed[0]) if changed else "its artifact was removed"
