"""Why a step is due: the first thing that differs from what the run had before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.plan import Chain
from pipeline.work import WorkItem
from storage.artifact import Artifact


@dataclass(frozen=True)
class StepForecast:
    """What a run would do with a step. `due` is None where it depends on a step above that must run first."""

    step: str
    cached: int
    due: int | None
    why: str


def why_due(chain: Chain) -> Iterator[StepForecast]:
    """Each step's forecast, in the chain's order. Computes nothing and writes nothing but stored cuts."""
    waiting: set[str] = set()
    root = chain.recipe.data.root
    if chain.recipe.scenes is not None and not root.is_dir():
        waiting.add("ingest")
        yield StepForecast("ingest", 0, None, f"after the made world is written to {root}")
    for step in chain.steps:
        if step.name in waiting:
            continue
        above = {name for names in (*step.reads.values(), *step.uses.values()) for name in names}
        blocked = sorted(above & waiting)
        if blocked:
            waiting.add(step.name)
            yield StepForecast(step.name, 0, None, f"after {', '.join(blocked)}")
            continue
        plan = chain.plan(step)
        if plan.due:
            waiting.add(step.name)
        why = _why(plan.due[0], chain.run.artifacts(step.name)) if plan.due else ""
        yield StepForecast(step.name, len(plan.cached), len(plan.due), why)


def _why(item: WorkItem, before: Mapping[str, Artifact]) -> str:
    """The first term of the item's key that differs from the run's earlier artifact of the same partition."""
    artifact = before.get(item.partition)
    if artifact is None:
        return "new" if not before else f"new partition {item.partition}"
    old, new = artifact.manifest.terms, item.terms.as_json()
    for term in ("version", "settings", "weights", "inputs"):
        changed = _difference(term, old.get(term), new[term])
        if changed:
            return changed
    return "its artifact was removed"


def _difference(name: str, old: Any, new: Any) -> str:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            found = _difference(f"{name}.{key}" if name != "settings" else key, old.get(key), new.get(key))
            if found:
                return found
        return ""
    if _plain(old) == _plain(new):
        return ""
    return f"{name} changed" if isinstance(new, list | tuple) else f"{name}: {_short(old)} → {_short(new)}"


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _short(value: Any) -> str:
    return str(value)[:24]
