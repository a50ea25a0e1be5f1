"""`rlip show`: lists runs, their executions, what a run's steps did, the checks of its partitions, and sample rows."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import pyarrow as pa
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.cli.options import STORE, AsJson, StorePath, VerdictsFolder
from pipeline.report.formatting import bytes_in_words, in_words, sanitise, table
from storage.artifact import Artifact
from storage.errors import FatalError, did_you_mean
from storage.manifest import REJECTED_FILE
from storage.open_store import existing_store
from storage.runs import Run, find_run, runs_of
from storage.store import Store

if TYPE_CHECKING:
    from pipeline.labels.audit_sample import AuditPrecision
    from pipeline.report.steps import StepSummary
    from pipeline.run.checks import CheckResult

SAMPLE_ROWS = 5
REJECTED_ROWS = 20
PREDICATES = 12


def show(
    run_name: Annotated[str | None, typer.Argument(metavar="[RUN]", help="A run; lists all runs if omitted.")] = None,
    step: Annotated[str | None, typer.Argument(metavar="[STEP]", help="E.g. shard:pseudo; adds sample rows.")] = None,
    history: Annotated[
        bool,
        typer.Option("--history", help="List executions: time, host, outcome; RUN@2 is the state after the second."),
    ] = False,
    checks: Annotated[
        bool,
        typer.Option("--checks", help="Show the checks of partitions (run.checks): limits, worst values, failures."),
    ] = False,
    store: StorePath = STORE,
    verdicts: VerdictsFolder = None,
    as_json: AsJson = False,
) -> None:
    """Show the steps of a run: rows in, rows out, what was rejected and why, time and size; with STEP also sample rows.

    STEP may also be the name of a stage if one step of that stage was recorded.
    """
    if step is not None and (history or checks):
        what = "--history: lists executions" if history else "--checks: shows all steps"
        raise FatalError(f"{what} of a run; omit {step}")
    opened, console = existing_store(store), Console(markup=False)
    if history:
        runs = runs_of(opened) if run_name is None else [find_run(opened, run_name.partition("@")[0])]
        _show_history(console, opened, runs, as_json)
    elif run_name is None and checks:
        raise FatalError("--checks: name the run whose checks to show")
    elif run_name is None:
        show_runs(console, opened, as_json)
    elif checks:
        _show_checks(console, find_run(opened, run_name), as_json)
    else:
        show_run(console, find_run(opened, run_name), step, as_json, verdicts)


def show_run(console: Console, run: Run, step: str | None, as_json: bool, verdicts: Path | None = None) -> None:
    """Show the steps of a run, or one with sample and quarantined rows. Raises `FatalError` for an unknown step."""
    # Here and for the checks, since a list of runs need not wait until all stages are imported.
    from pipeline.labels.verdict_summary import run_precision
    from pipeline.report.label_view import LabelView
    from pipeline.report.steps import sampled, summaries

    steps = summaries(run)
    if step is None:
        show_steps(console, run, steps, as_json)
        return
    summary = _find_step(run, steps, step)
    artifacts = run.artifacts(summary.step)
    rejected = sampled(artifacts.values(), REJECTED_ROWS)
    view = LabelView.of(run) if summary.step == "tag" else None
    human = None if view is None else run_precision(run, verdicts)
    if as_json:
        rows = {name: list(head) for name, head in _heads(artifacts)}
        shown = {**asdict(summary), "keys": {p: a.key for p, a in artifacts.items()}, "sample": rows}
        labels = {} if view is None else {"labels": asdict(view)}
        labels |= {} if human is None else {"reviewed": asdict(human)}
        _print_json(console, {**shown, "rejected_rows": rejected, **labels})
        return
    show_steps(console, run, [summary], as_json)
    if view is not None:
        view.print(console)
    if human is not None:
        _show_precision(console, human)
    _show_rows(console, artifacts, rejected, summary.rejected)


def _show_precision(console: Console, human: AuditPrecision) -> None:
    console.print(Text(f"Reviewers: {human.in_words()}"), soft_wrap=True)
    made = table("Precision by reviewers", "predicate", "judged", "right", "precision", "95 % interval")
    for each in human.predicates[:PREDICATES]:
        numbers = f"{each.judged:,}", f"{each.right:,}", f"{each.precision:.3f}"
        made.add_row(Text(sanitise(each.predicate)), *numbers, f"{each.low:.3f} to {each.high:.3f}")
    console.print(made)


def _show_history(console: Console, store: Store, runs: list[Run], as_json: bool) -> None:
    """The executions of runs, oldest first. Runs of earlier versions begin theirs when next executed."""
    records = [record for run in runs for record in run.records()]
    if as_json:
        _print_json(console, {"records": [{"run": record.name, **record.facts} for record in records]})
        return
    console.print(Text(f"Executions in {store.address}", "bold"), soft_wrap=True)
    made = table(None, "run", "time (UTC)", "status", "computed", "cached", "host", "rlip")
    for record in records:
        facts = record.facts
        steps = facts.get("outcome") or []
        cached = sum(step["cached"] or 0 for step in steps)
        computed = sum(step["partitions"] for step in steps) - cached
        texts = (facts["time"][:19].replace("T", " "), facts["status"], f"{computed:,}", f"{cached:,}")
        made.add_row(*map(Text, (record.name, *texts, facts.get("host", "–"), facts.get("rlip", "–"))))
    console.print(made)


def _show_checks(console: Console, run: Run, as_json: bool) -> None:
    """One line for each check of each step, and one for each partition that failed."""
    from pipeline.run.checks import recorded_checks

    recorded = list(recorded_checks(run))
    if as_json:
        rows = [
            {"step": step, "partition": partition, **asdict(result), "passed": result.passed}
            for step, partition, result in recorded
        ]
        print(json.dumps({"run": run.name, "checks": rows}))
        return
    if not recorded:
        console.print(Text(f"Run {run.name} has no checks; set limits in [run.checks] of its recipe"))
        return
    made = table(f"Checks of {run.name}", "step", "check", "limit", "partitions", "not judged", "worst", "failed")
    by_check: dict[tuple[str, str], list[CheckResult]] = {}
    for step, _, result in recorded:
        by_check.setdefault((step, result.check), []).append(result)
    for (step, name), results in by_check.items():
        made.add_row(Text(step), name, *_check_summary(results))
    console.print(made)
    for step, partition, result in recorded:
        if not result.passed:
            console.print(Text(f"{step} {partition}: {result.in_words}"), soft_wrap=True)


def _check_summary(results: list[CheckResult]) -> tuple[str, ...]:
    """Limit, partitions, how many were not judged, the value closest to failing, and how many failed."""
    first, values = results[0], [result.value for result in results if result.value is not None]
    worst = (min if first.is_least else max)(values, default=None)
    failed = sum(not result.passed for result in results)
    counts = f"{len(results):,}", f"{len(results) - len(values):,}"
    limit = f"{'≥' if first.is_least else '≤'} {first.limit:g}"
    return limit, *counts, "–" if worst is None else f"{worst:.4g}", f"{failed:,}"


def show_runs(console: Console, store: Store, as_json: bool) -> None:
    """Show the runs of a store, with their numbers of steps and partitions."""
    runs = [(run, run.steps()) for run in runs_of(store)]
    if as_json:
        _print_json(console, {"runs": [{"run": run.name, "steps": steps} for run, steps in runs]})
    elif not runs:
        console.print(Text(f"No runs in {store.address}; `rlip run RECIPE` creates one"), soft_wrap=True)
    else:
        console.print(Text(f"Runs in {store.address}", "bold"), soft_wrap=True)
        made = table(None, "run", "steps", "partitions")
        for run, steps in runs:
            made.add_row(Text(run.name), str(len(steps)), str(sum(len(run.artifacts(step)) for step in steps)))
        console.print(made)


def show_steps(console: Console, run: Run, steps: list[StepSummary], as_json: bool) -> None:
    """Show steps of a run: counts of rows, time and size; as JSON also how many artifacts the store has lost."""
    from pipeline.report.steps import outdated_in_words

    if as_json:
        missing = {summary.step: len(run.keys(summary.step)) - summary.partitions for summary in steps}
        lost = {step: number for step, number in missing.items() if number}
        _print_json(console, {"run": run.name, "steps": [asdict(summary) for summary in steps], "lost": lost})
        return
    made = table(
        f"Run {run.name}", "step", "partitions", "rows in", "rows out", "rejected", "worker seconds", "images/s", "size"
    )
    for step in steps:
        counts = (step.partitions, step.rows_in, step.rows_out, sum(step.rejected.values()))
        rate = f"{step.rate:,.1f}" if step.rate else "–"
        made.add_row(
            Text(step.step), *(f"{n:,}" for n in counts), f"{step.seconds:,.1f}", rate, bytes_in_words(step.bytes)
        )
    console.print(made)
    if note := outdated_in_words(steps):
        console.print(Text(note, "bold"))
    for step in steps:
        if step.rejected:
            reasons = ", ".join(f"{reason}: {count:,}" for reason, count in step.rejected.items())
            console.print(Text(sanitise(f"{step.step} rejected {reasons}")))
        if step.facts:
            facts = ", ".join(f"{name} {value}" for name, value in step.facts.items() if value != {})
            console.print(Text(sanitise(f"{step.step}: {facts}", 600), "dim"))


def _show_rows(
    console: Console, artifacts: Mapping[str, Artifact], rejected: list[dict[str, Any]], counts: Mapping[str, int]
) -> None:
    for name, head in _heads(artifacts):
        if not head:
            console.print(Text(f"{name}: no rows", "dim"))
            continue
        made = _rows_table(f"First rows of {name}", "image", "holds")
        for row in head:
            made.add_row(*(Text(cell) for cell in in_words(row)))
        console.print(made)
    if rejected:
        made = _rows_table("Quarantined rows, some of each reason", "reason", "count", "image", "value")
        previous = ""
        for row in rejected:
            reason, count = ("", "") if row["reason"] == previous else (row["reason"], f"{counts[row['reason']]:,}")
            previous = row["reason"]
            made.add_row(Text(sanitise(reason)), count, str(row["image_id"]), Text(sanitise(row["value"])))
        console.print(made)


def _rows_table(title: str, *columns: str) -> Table:
    made = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        made.add_column(column, header_style="dim", overflow="fold")
    return made


def _heads(artifacts: Mapping[str, Artifact]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Name and first rows of every table of the first partition."""
    first = next(iter(artifacts.values()), None)
    if first is None:
        return
    for file in sorted(first.manifest.files):
        name, dot, kind = file.rpartition(".")
        if dot and kind == "parquet" and file != REJECTED_FILE:
            head: pa.Table = first.table(name).slice(0, SAMPLE_ROWS)
            yield name, head.to_pylist()


def _find_step(run: Run, steps: list[StepSummary], name: str) -> StepSummary:
    exact = [summary for summary in steps if summary.step == name]
    of_stage = [summary for summary in steps if summary.step.split(":")[0] == name]
    chosen = exact or of_stage
    if len(chosen) == 1:
        return chosen[0]
    what = f"{len(of_stage)} steps of stage" if of_stage else "no step"
    names = ", ".join(summary.step for summary in of_stage or steps) or "none yet"
    meant = "" if of_stage else did_you_mean(name, (summary.step for summary in steps))
    raise FatalError(f"run {run.name!r} has {what} {name!r}{meant}; name one of: {names}")


def _print_json(console: Console, value: dict[str, Any]) -> None:
    console.out(json.dumps(value, ensure_ascii=False, indent=1, default=str), highlight=False)
