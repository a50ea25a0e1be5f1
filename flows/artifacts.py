"""Publishes a run on Prefect's pages: progress, tables and figures as artifacts, and an event per step."""

from __future__ import annotations

import platform
import re
import threading
import time
from collections.abc import Sequence
from contextvars import copy_context
from dataclasses import asdict
from typing import cast
from uuid import UUID

from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.events import emit_event

from pipeline.report.figures import Figures, figures_of, headline
from pipeline.report.label_view import SCORES, score_cells
from pipeline.report.steps import RunOutcome, StepOutcome
from pipeline.report.variants import score_name, score_names, score_text
from pipeline.run.context import RunContext
from pipeline.run.planner import StepPlan
from pipeline.run.progress import Display, summary
from pipeline.run.recipe import Recipe
from pipeline.runtime.execute import Record, WorkItem
from pipeline.runtime.wording import markdown_table

UPDATE_EVERY = 1.0
"""Seconds between two updates of a progress artifact. Each update is a request to the server."""


def artifact_key(*parts: str) -> str:
    """Key of a Prefect artifact, e.g. `progress-demo-shard-pseudo`: lower-case letters, digits and dashes only."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-")


class ProgressArtifact(Display):
    """Publishes the progress of one step as an artifact in Prefect.

    Progress may come from any thread. Only the thread that created this object may call `pulse`, which publishes it.
    """

    def __init__(self, run: str) -> None:
        self._run = run
        self._thread = threading.get_ident()
        self._artifact: UUID | None = None
        self._partitions = 0
        self._share: dict[str, float] = {}
        self._published = 0.0
        self._update = threading.Thread()
        self._failure: Exception | None = None

    def step(self, plan: StepPlan) -> None:
        """Create the artifact, starting at the share that is cached."""
        self._partitions = plan.partitions
        self._share = {record.partition: 1.0 for record in plan.cached}
        key = artifact_key("progress", self._run, plan.step.name)
        note = f"{plan.step.name}: {len(plan.cached)} of {plan.partitions} partitions cached"
        self._artifact = cast(UUID, create_progress_artifact(self._percent(), key, note))
        self._published = time.monotonic()

    def progress(self, item: WorkItem, done: int, total: int, note: str) -> None:
        """Record an item's share. A whole-set stage reports on the flow run's thread and is published at once."""
        if done or not note:
            self._share[item.partition] = done / max(total, 1)
        if threading.get_ident() == self._thread:
            self.pulse()

    def finished(self, record: Record) -> None:
        """Note that the item is complete."""
        self._share[record.partition] = 1.0

    def pulse(self) -> None:
        """Publish the progress if the last update has ended and began at least `UPDATE_EVERY` seconds ago.

        Raises what an update raised, but waits for none: nodes of a training run would take its coordinator for lost.
        """
        if self._failure is not None:
            raise self._failure
        is_due = time.monotonic() - self._published >= UPDATE_EVERY
        if self._artifact is not None and is_due and not self._update.is_alive():
            self._published = time.monotonic()
            # In the context of this thread, which has Prefect's client
            arguments = (self._publish, self._artifact, self._percent())
            self._update = threading.Thread(target=copy_context().run, args=arguments, daemon=True)
            self._update.start()

    def _publish(self, artifact: UUID, percent: float) -> None:
        try:
            update_progress_artifact(artifact, percent)
        except Exception as error:
            self._failure = error

    def done(self, plan: StepPlan, records: Sequence[Record], seconds: float) -> None:
        """Publish the summary of the step."""
        if self._artifact is not None and plan.due:
            if self._update.is_alive():
                self._update.join()
            description = f"{plan.step.name}: {summary(plan, records, seconds)}"
            update_progress_artifact(self._artifact, 100.0, description)

    def _percent(self) -> float:
        # A copy, because other threads add partitions at the same time.
        return round(100 * sum(self._share.copy().values()) / max(self._partitions, 1), 1)


def emit_step_completed(recipe: Recipe, outcome: StepOutcome) -> None:
    """Emit an event with a step's partitions, rows and time. Prefect adds the flow run.

    A failed step emits no event, because Prefect reports that its flow run failed.
    """
    resource = {
        "prefect.resource.id": f"rlip.step.{recipe.name}.{outcome.step}",
        "prefect.resource.name": f"{outcome.step} of {recipe.name}",
    }
    emit_event("rlip.step.completed", resource, payload=asdict(outcome))


def publish_stage(recipe: Recipe, outcomes: Sequence[StepOutcome]) -> None:
    """Publish the artifact `report-<run>` of a stage's flow run, with the rows and partitions of its steps."""
    _publish_report_link(
        recipe,
        [
            f"**{each.rows_out:,}** rows out of {each.step}, {each.cached or 0} of {each.partitions} partitions cached"
            for each in outcomes
        ],
    )


def publish_run(context: RunContext, outcome: RunOutcome) -> None:
    """Publish the artifacts `stages-<run>`, `summary-<run>` and `report-<run>` of a flow run of the chain."""
    recipe, figures = context.recipe, figures_of(context.view)
    create_table_artifact(
        table=[{name: str(value) for name, value in row.items()} for row in outcome.as_rows()],
        key=artifact_key("stages", recipe.name),
        description=f"Rows and time of each step of {recipe.name}.",
    )
    create_markdown_artifact(
        markdown=_summary_page(context, figures),
        key=artifact_key("summary", recipe.name),
        description=f"Results of {recipe.name}, and where to find them.",
    )
    _publish_report_link(
        recipe,
        [f"**{value}** {what}{f' ({against})' if against else ''}" for value, what, against in headline(figures)],
    )


def _publish_report_link(recipe: Recipe, figures: Sequence[str]) -> None:
    """Publish figures, one per line, and the report's path, not a link: browsers open no local files from web pages.

    Contains no text from the data, because Prefect renders it.
    """
    path = (recipe.report / "index.html").absolute()
    lines = [
        *figures,
        f"report on {platform.node()}, once the run has ended: `{path}`",
        f"`rlip report {recipe.name} --store {recipe.store}` writes it again",
    ]
    create_markdown_artifact(
        markdown="".join(f"* {line}\n" for line in lines),
        key=artifact_key("report", recipe.name),
        description=f"Location of the report of {recipe.name}, with key figures.",
    )


def _summary_page(context: RunContext, figures: Figures) -> str:
    """The figures and paths of a run in Markdown. Contains no text from the data, because Prefect renders it."""
    counts = [[name, f"{count:,}"] for name, count in figures.labels.levels()]
    audited = ((audit.dataset, audit.labels.methods(figures.choice)) for audit in figures.audits if audit.labels)
    labels = [[f"{dataset}, {name}", *score_cells(scores)] for dataset, methods in audited for name, scores in methods]
    names = score_names(figures.variants)
    variants = [
        [f"{variant.variant} ({variant.seeds})", *(score_text(variant.scores.get(name), name) for name in names)]
        for variant in figures.variants
    ]
    lines = [
        f"# {context.recipe.name}",
        "",
        f"* artifacts by step: `{context.run.folder}`",
        f"* report: `{(context.recipe.report / 'index.html').absolute()}`",
        "",
        "## Labels",
        "",
        *(markdown_table(["", f"kept: {figures.choice}"], counts) if counts else ()),
        "",
        *(markdown_table(["labels", *SCORES], labels) if labels else ()),
    ]
    if names:
        head = "variant (seeds)", *map(score_name, names)
        lines += ["", "## Scores in percent, mean ± standard deviation over seeds", "", *markdown_table(head, variants)]
    if names and figures.share_of_gain is not None:
        gain = "of the gain in zero-shot mAP of ground-truth relations over no relations"
        lines += ["", f"Pseudo-labels recover {figures.share_of_gain:.0%} {gain}."]
    return "\n".join(lines) + "\n"
