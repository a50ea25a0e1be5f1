"""`rlip show`: lists runs, what the steps of a run did, and sample rows of a step."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.report.formatting import bytes_in_words, in_words, sanitise, table
from pipeline.report.label_view import LabelView
from pipeline.report.quarantine import sampled
from pipeline.report.steps import StepSummary, summaries
from storage.artifact import Artifact
from storage.errors import FatalError, did_you_mean
from storage.manifest import REJECTED_FILE
from storage.runs import Run, find_run, runs_of
from storage.store import Store

SAMPLE_ROWS = 5
REJECTED_ROWS = 20


def show_run(
    console: Console, store: Store, run_name: str | None, step: str | None = None, as_json: bool = False
) -> None:
    """Show the runs of a store, the steps of one run, or one step with sample rows and quarantined rows.

    `step` may also be the name of a stage if one step of that stage was recorded. Raises `FatalError` if there is no such
    run or step; its message lists those that exist.
    """
    if run_name is None:
        _show_runs(console, store, as_json)
        return
    run = find_run(store, run_name)
    found = summaries(run)
    if step is None:
        _show_steps(console, run, found, as_json)
        return
    summary = _find_step(run, found, step)
    artifacts = run.artifacts(summary.step)
    if as_json:
        rows = {name: list(head) for name, head in _heads(artifacts)}
        shown = {**summary.as_json(), "keys": {p: a.key for p, a in artifacts.items()}, "sample": rows}
        labels = {"labels": LabelView.of(run).as_json()} if summary.step == "tag" else {}
        _print_json(console, {**shown, "rejected_rows": sampled(artifacts.values(), REJECTED_ROWS), **labels})
        return
    _show_steps(console, run, [summary], as_json)
    if summary.step == "tag":
        LabelView.of(run).print(console)
    _show_rows(console, artifacts, summary.rejected)


def _show_runs(console: Console, store: Store, as_json: bool) -> None:
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


def _lost(run: Run, found: list[StepSummary]) -> dict[str, int]:
    """Step → number of recorded artifacts that the store no longer has."""
    missing = {summary.step: len(run.keys(summary.step)) - summary.partitions for summary in found}
    return {step: number for step, number in missing.items() if number}


def _show_steps(console: Console, run: Run, found: list[StepSummary], as_json: bool) -> None:
    lost = _lost(run, found)
    if as_json:
        _print_json(console, {"run": run.name, "steps": [summary.as_json() for summary in found], "lost": lost})
        return
    made = table(
        f"Run {run.name}", "step", "partitions", "rows in", "rows out", "rejected", "worker seconds", "images/s", "size"
    )
    for step in found:
        counts = (step.partitions, step.rows_in, step.rows_out, sum(step.rejected.values()))
        rate = f"{step.rate:,.1f}" if step.rate else "–"
        made.add_row(
            Text(step.step), *(f"{n:,}" for n in counts), f"{step.seconds:,.1f}", rate, bytes_in_words(step.bytes)
        )
    console.print(made)
    for name, number in lost.items():
        text = f"{name}: the store has lost {number} of {len(run.keys(name))} artifacts; run the recipe again, or pull the run"
        console.print(Text(sanitise(text, 200), "bold"))
    for step in found:
        if step.rejected:
            reasons = ", ".join(f"{reason}: {count:,}" for reason, count in step.rejected.items())
            console.print(Text(sanitise(f"{step.step} rejected {reasons}")))
        if step.facts:
            facts = ", ".join(f"{name} {value}" for name, value in step.facts.items() if value != {})
            console.print(Text(sanitise(f"{step.step}: {facts}", 600), "dim"))


def _show_rows(console: Console, artifacts: Mapping[str, Artifact], counts: Mapping[str, int]) -> None:
    for name, head in _heads(artifacts):
        if not head:
            console.print(Text(f"{name}: no rows", "dim"))
            continue
        made = _rows_table(f"First rows of {name}", "image", "holds")
        for row in head:
            made.add_row(*(Text(cell) for cell in in_words(row)))
        console.print(made)
    rejected = sampled(artifacts.values(), REJECTED_ROWS)
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


def _find_step(run: Run, found: list[StepSummary], name: str) -> StepSummary:
    exact = [summary for summary in found if summary.step == name]
    of_stage = [summary for summary in found if summary.step.split(":")[0] == name]
    chosen = exact or of_stage
    if len(chosen) == 1:
        return chosen[0]
    what = f"{len(of_stage)} steps of stage" if of_stage else "no step"
    steps = ", ".join(summary.step for summary in of_stage or found) or "none yet"
    meant = "" if of_stage else did_you_mean(name, (summary.step for summary in found))
    raise FatalError(f"run {run.name!r} has {what} {name!r}{meant}; name one of: {steps}")


def _print_json(console: Console, value: dict[str, Any]) -> None:
    console.out(json.dumps(value, ensure_ascii=False, indent=1, default=str), highlight=False)
