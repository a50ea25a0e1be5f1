"""Runs a recipe in this process and its workers, without Prefect: same steps, same store, same bytes as with it."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import as_completed
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

from pipeline.report.figures import Figures, figures_of
from pipeline.report.static_report import write_report
from pipeline.report.steps import RunOutcome, StepOutcome
from pipeline.run.checks import CHECKED, require_passed
from pipeline.run.context import RunContext
from pipeline.run.dag import Step
from pipeline.run.estimate import expected_seconds
from pipeline.run.planner import Planner, StepPlan
from pipeline.run.prepare import prepare
from pipeline.run.progress import Display
from pipeline.runtime.engines.engine import Engine, StageCall
from pipeline.runtime.engines.local import LocalEngine
from pipeline.runtime.engines.ray import RayEngine, connect
from pipeline.runtime.execute import Record, execute, installed_version
from pipeline.runtime.logs import bound, log, noticing
from pipeline.training.settings import TrainingSettings
from storage.errors import PipelineError, RetryableError

Work = Callable[[Planner, StepPlan, Display], Sequence[Record]]
"""Executes the due items of a step for a runner. It may do more, but returns their records."""


def run(context: RunContext, display: Display) -> RunOutcome:
    """Run every step of a recipe. Raises `PipelineError`; what was committed stays and is reused."""
    prepare(context, display)
    planner = Planner(context)
    return RunOutcome(context.recipe.name, [run_step(planner, step, display, work) for step in context.steps])


def run_step(planner: Planner, step: Step, display: Display, work: Work) -> StepOutcome:
    """Plan a step, execute what is due, and record the artifacts in the run. The steps that it needs must be done."""
    with bound(step=step.name), noticing(display.warn):
        plan = planner.plan(step)
        if plan.due:
            plan.later = _seconds_after(planner.context, step)
        display.step(plan)
        held = {"held_back": len(plan.held)} if plan.held else {}
        log.info("planned", extra={"fields": {"cached": len(plan.cached), "due": len(plan.due), **held}})
        began = time.monotonic()
        records = [*plan.cached, *work(planner, plan, display)]
        seconds = time.monotonic() - began
        planner.finish(step, records)
        display.done(plan, records, seconds)
        outcome = step_outcome(plan, records, seconds)
        planner.context.outcomes.append(outcome)
        counts = {"rows_in": outcome.rows_in, "rows_out": outcome.rows_out, "rejected": outcome.rejected}
        log.info("done", extra={"fields": {"seconds": outcome.seconds, **counts}})
        return outcome


def _seconds_after(context: RunContext, step: Step) -> float | None:
    """Seconds that the steps after this one are expected to take; None where one of them was never measured."""
    if context.expected is None:
        context.expected = {}
        with suppress(PipelineError):  # what fails here is reported when its step is planned
            context.expected = expected_seconds(context)
    later = context.steps[context.steps.index(step) + 1 :]
    seconds = [found for each in later if (found := context.expected.get(each.name)) is not None]
    return sum(seconds) if len(seconds) == len(later) else None


def work(planner: Planner, plan: StepPlan, display: Display) -> Sequence[Record]:
    """Execute the due items of a step: a whole-set stage in this process, partitions in the workers of the engine."""
    if not plan.due:
        return []
    if plan.step.stage.whole:
        return [execute_whole(planner, plan, display)]
    with open_engine(planner, plan, display) as engine:
        records = []
        for future in as_completed([engine.submit(item) for item in plan.due]):
            records.append(future.result())
            display.finished(records[-1])
    return records


def open_engine(planner: Planner, plan: StepPlan, display: Display) -> Engine:
    """Make the engine that the recipe names, with at most one worker per due item of the step."""
    run, call, due = planner.context.recipe.run, stage_call(planner, plan), len(plan.due)
    if run.engine == "local" or run.ray_address is None:
        return LocalEngine(call, min(run.workers, due), display.progress)
    return RayEngine(
        call,
        display.progress,
        address=run.ray_address,
        least=min(run.min_actors, due),
        most=run.max_actors,
        gpus_per_actor=run.gpus_per_actor,
    )


def execute_whole(planner: Planner, plan: StepPlan, display: Display) -> Record:
    """Execute a whole-set step in this process and thread, where signals reach its trainer."""
    (item,) = plan.due
    store = planner.context.store
    stage = stage_call(planner, plan).opened(store, item)
    with _lent_nodes(planner.context, plan.step):
        record = execute(stage, item, store, lambda done, total, note="": display.progress(item, done, total, note))
    if stage.uses_gpu:
        import torch

        # What PyTorch keeps of the GPU's memory for this process would be missing in the next training run.
        torch.cuda.empty_cache()
    display.finished(record)
    return record


@contextmanager
def _lent_nodes(context: RunContext, step: Step) -> Iterator[None]:
    """Lend nodes of the Ray cluster to a training run on several nodes, with this machine as the coordinator."""
    run, training = context.recipe.run, step.settings
    if run.engine != "ray" or not isinstance(training, TrainingSettings) or training.nodes == 1:
        yield
        return
    from pipeline.training.launch.ray_nodes import lend_nodes

    assert run.ray_address is not None and training.address is not None, "the settings were validated"
    with lend_nodes(connect(run.ray_address), training.address, context.store.root, training.nodes - 1):
        yield


def stage_call(planner: Planner, plan: StepPlan) -> StageCall:
    """What a worker needs to create the stage of the step."""
    step, context = plan.step, planner.context
    folders = context.resolved.data.image_folders()
    return StageCall(step.stage, step.settings, folders, planner.uses(step), context.store.address, context.logs)


def step_outcome(plan: StepPlan, records: Sequence[Record], seconds: float) -> StepOutcome:
    """Sum up a step's records; `seconds` is the wall time of this run."""
    fresh = sum(record.seen for record in records if not record.cached)
    return StepOutcome(
        step=plan.step.name,
        partitions=plan.partitions,
        cached=sum(record.cached for record in records),
        rows_in=sum(record.rows_in for record in records),
        rows_out=sum(record.rows_out for record in records),
        rejected=sum(sum(record.rejected.values()) for record in records),
        seconds=round(seconds, 2),
        rate=round(fresh / seconds, 1) if fresh and seconds else 0.0,
    )


@contextmanager
def logged_run(context: RunContext, runner: str) -> Iterator[Path]:
    """Log start and end of an execution, and append it to the history of the run. Yields the path of the log file."""
    fields = {
        "runner": runner,
        "store": context.recipe.store,
        "host": platform.node(),
        "rlip": installed_version("rlip"),
    }
    with context.logs.open("run") as path:
        log.info("run started", extra={"fields": fields})
        try:
            yield path
        except PipelineError as error:
            log.error("run failed", extra={"fields": {"error": error}})
            _append_unfinished(context, "failed", error=str(error))
            raise
        except Exception as error:
            log.exception("run failed")
            _append_unfinished(context, "failed", error=repr(error))
            raise
        except BaseException:  # Ctrl-C, or a signal that Prefect turns into its own exception
            log.warning("run stopped")
            _append_unfinished(context, "stopped")
            raise
        _append_record(context, "completed")
        log.info("run finished")


def _append_record(context: RunContext, status: str, **facts: object) -> None:
    """Append this execution to the history of the run: its recipe, host and outcome, and the state of every step."""
    host = {"host": platform.node(), "rlip": installed_version("rlip")}
    outcome = list(map(asdict, context.outcomes))
    recipe, checks = context.recipe.model_dump(mode="json"), context.run.read_document(CHECKED)
    context.run.append(status, **host, recipe=recipe, outcome=outcome, **({CHECKED: checks} if checks else {}), **facts)
    if context.recipe.run.lineage is not None:
        _send_lineage(context, context.recipe.run.lineage)


def _send_lineage(context: RunContext, url: str) -> None:
    """Send a lineage server what the run has now. A failing one fails no run: `rlip store lineage` sends it later."""
    try:
        from pipeline.interop.openlineage_delivery import send_events
        from pipeline.interop.openlineage_events import RunLineage

        number = send_events(RunLineage(context.run).events(), url)
        log.info("lineage sent", extra={"fields": {"events": number, "url": url}})
    except (ImportError, PipelineError) as error:
        missing = f"{error.name} is missing: pip install 'rlip[lineage]'" if isinstance(error, ImportError) else error
        log.warning("lineage not sent", extra={"fields": {"error": missing}})


def _append_unfinished(context: RunContext, status: str, **facts: object) -> None:
    """Append an execution that did not complete, once it may have changed the run. Errors must not hide its reason."""
    with suppress(PipelineError):
        if context.is_prepared:
            _append_record(context, status, **facts)


def settle(context: RunContext, outcome: RunOutcome) -> None:
    """Store recipe and outcome, from which figures are computed, with the run.

    Raises `RetryableError` before that if another execution of the run has recorded other results.
    """
    context.store.refresh()  # it may have been on another machine
    if mixed := [step for step, keys in context.recorded.items() if context.run.keys(step) != keys]:
        what = f"run {context.run.name}: another execution has replaced {', '.join(mixed)} in the meantime"
        raise RetryableError(
            f"{what}, with different settings or data, or `rlip store rm` has removed the run; rename one of the two "
            "runs, or let the other finish first"
        )
    context.run.note("recipe", context.recipe.model_dump(mode="json"))
    context.run.note("outcome", outcome.as_rows())


def conclude(context: RunContext, outcome: RunOutcome) -> tuple[Figures, Path]:
    """Settle the run and write the report. Returns the figures and the path of the report.

    Raises as `settle` does, and `FatalError` at the end if a partition failed one of `run.checks`.
    """
    settle(context, outcome)
    view = context.view
    concluded = figures_of(view), write_report(view, outcome, context.recipe.report, written=datetime.now())
    require_passed(context.run, context.steps)
    return concluded
