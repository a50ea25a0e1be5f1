"""Tells Prefect's stream of events how a step ended, for its page of events and for automations."""

from __future__ import annotations

from prefect.events import emit_event

from pipeline.report.steps import StepOutcome
from pipeline.run.recipe import Recipe

COMPLETED = "rlip.step.completed"
"""A step that fails has no event of its own: Prefect tells that its flow run failed."""


def emit_step_completed(recipe: Recipe, outcome: StepOutcome) -> None:
    """Emit an event about a step of a run, with partitions, rows and time. Prefect adds the flow run."""
    resource = {
        "prefect.resource.id": f"rlip.step.{recipe.name}.{outcome.step}",
        "prefect.resource.name": f"{outcome.step} of {recipe.name}",
    }
    emit_event(COMPLETED, resource, payload=outcome.as_json())
