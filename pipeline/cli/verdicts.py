"""`rlip verdicts`: summaries of verdicts, thresholds and calibration from them, and import from annotation tools."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from pipeline.cli.options import STORE, AsJson, RunName, StorePath, VerdictsFolder
from pipeline.interop.import_verdicts import AnnotationFormat, import_verdicts
from pipeline.labels.kept_labels import EVERY_LABEL
from pipeline.labels.label_rows import reviewable_labels
from pipeline.labels.team import read_team
from pipeline.labels.verdict_log import VerdictLog, existing_folder, verdicts_folder
from pipeline.labels.verdict_summary import (
    Kappa,
    ProposedThreshold,
    VerdictSummary,
    audit_of,
    fitted_on_verdicts,
    propose_thresholds,
    summarize,
)
from pipeline.labels.verdicts import KINDS
from pipeline.report.formatting import sanitise, table
from storage.errors import FatalError
from storage.open_store import existing_store
from storage.runs import find_run

SHOWN = 20
"""Number of predicates shown in a terminal."""
commands = typer.Typer(no_args_is_help=True)


@commands.command("show")
def show_verdicts(
    run_name: Annotated[
        str | None, typer.Argument(metavar="[RUN]", help="Estimate the precision of this run from the verdicts.")
    ] = None,
    folder: VerdictsFolder = None,
    store: StorePath = STORE,
    as_json: AsJson = False,
) -> None:
    """Count verdicts by kind, reviewer and predicate; show agreement and the precision of a run's labels."""
    log = _log(store, folder)
    standing = log.standing()
    audit = None
    if run_name is not None:
        labels = reviewable_labels(find_run(existing_store(store), run_name))
        audit = audit_of(labels, standing, read_team(log.folder))
    summary = summarize(log.verdicts(), standing, log.damaged, audit)
    if as_json:
        print(json.dumps(asdict(summary), ensure_ascii=False))
    else:
        _print_summary(summary, log.folder)


@commands.command("thresholds")
def show_thresholds(
    run_name: RunName,
    precision: Annotated[float, typer.Option(min=0, max=1, help="Target precision of the labels.")] = 0.9,
    fewest: Annotated[int, typer.Option(min=1, help="Minimum number of confident verdicts per predicate.")] = 20,
    folder: VerdictsFolder = None,
    store: StorePath = STORE,
    as_json: AsJson = False,
) -> None:
    """Propose a threshold for each predicate with enough verdicts, as section shard.thresholds."""
    labels = reviewable_labels(find_run(existing_store(store), run_name), all_scores=True)
    proposed = propose_thresholds(labels, _log(store, folder).standing(), precision, fewest)
    if as_json:
        print(json.dumps([asdict(each) for each in proposed], ensure_ascii=False))
        return
    if not proposed:
        raise FatalError(
            f"no predicate of run {run_name!r} has {fewest} confident verdicts; judge more, or lower --fewest"
        )
    print("[shard.thresholds]")
    for each in proposed:
        print(_setting(each))


@commands.command("calibration")
def show_calibration(
    run_name: RunName,
    fewest: Annotated[int, typer.Option(min=1, help="Minimum number of confident verdicts.")] = 100,
    folder: VerdictsFolder = None,
    store: StorePath = STORE,
    as_json: AsJson = False,
) -> None:
    """Calibrate scores to probabilities with verdicts, as section shard.calibration."""
    labels = reviewable_labels(find_run(existing_store(store), run_name), choice=EVERY_LABEL)
    fitted, judged = fitted_on_verdicts(labels, _log(store, folder).standing())
    number = sum(map(len, judged.values()))
    if number < fewest:
        raise FatalError(f"run {run_name!r} has {number} of the {fewest} confident verdicts needed; judge more")
    lines = {"": fitted.common, **fitted.lines}
    if as_json:
        print(json.dumps({name: [line.scale, line.offset] for name, line in lines.items()}, ensure_ascii=False))
        return
    print(f'# fitted to {number:,} verdicts; used with shard.confidence = "calibrated"\n[shard.calibration]')
    for name, line in lines.items():
        print(f"{json.dumps(name, ensure_ascii=False)} = [{line.scale}, {line.offset}]")


@commands.command("import")
def import_annotations(
    run_name: RunName,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Label Studio's JSON, or XML of CVAT for images 1.1.")],
    reviewer: Annotated[str, typer.Option(help="Who annotated the file.")],
    form: Annotated[AnnotationFormat | None, typer.Option("--format", help="Default: by file extension.")] = None,
    additions_only: Annotated[
        bool, typer.Option("--additions-only", help="Don't reject labels that the file lacks.")
    ] = False,
    folder: VerdictsFolder = None,
    store: StorePath = STORE,
    as_json: AsJson = False,
) -> None:
    """Convert relations from an annotation tool to verdicts: labels kept, removed, renamed and added."""
    log = _log(store, folder, must_exist=False)
    run = find_run(existing_store(store), run_name)
    verdicts = import_verdicts(run, file, form, reviewer, additions_only)
    log.append(verdicts)
    kinds = dict(Counter(verdict.kind for verdict in verdicts).most_common())
    if as_json:
        print(json.dumps({"verdicts": len(verdicts), "kinds": kinds, "folder": str(log.folder)}, ensure_ascii=False))
        return
    listed = ", ".join(f"{number:,} {kind}" for kind, number in kinds.items()) or "none"
    print(f"{len(verdicts):,} verdicts of {reviewer} appended to {log.folder}: {listed}")


def _log(store: str, folder: Path | None, must_exist: bool = True) -> VerdictLog:
    place = folder if folder is not None else verdicts_folder(store)
    return VerdictLog(existing_folder(place) if must_exist else place)


def _setting(proposed: ProposedThreshold) -> str:
    name = json.dumps(proposed.predicate, ensure_ascii=False)
    facts = f"{proposed.verdicts} verdicts, {proposed.labels:,} labels, expected precision {proposed.precision:.3f}"
    if proposed.threshold is None:
        return f"# {name}: no threshold reaches the precision ({facts})"
    return f"{name} = {proposed.threshold:g}  # {facts}"


def _print_summary(summary: VerdictSummary, folder: Path) -> None:
    console = Console(markup=False)
    print(
        f"{summary.relations:,} relations judged in all runs, {summary.undone:,} verdicts undone or replaced ({folder})"
    )
    kinds = [kind for kind in KINDS if kind != "undo"]
    # Two tables, since one would lose its last columns in 80 columns, the width that files get.
    made = table("Verdicts", "reviewer", *kinds)
    paces = table("Pace and care", "reviewer", "median seconds", "an hour", "hasty", "honeypots right")
    for name, counts in summary.reviewers.items():
        seconds, hourly = summary.seconds.get(name), summary.hourly.get(name)
        made.add_row(Text(sanitise(name)), *(f"{counts.get(kind, 0):,}" for kind in kinds))
        pace = ("–" if seconds is None else f"{seconds:.1f}", "–" if hourly is None else f"{hourly:,.0f}")
        asked, right = summary.honeypots.get(name, (0, 0))
        hasty = f"{summary.hasty.get(name, 0):,}" if name in summary.reaction else "–"
        checks = hasty, f"{right} of {asked}" if asked else "–"
        paces.add_row(Text(sanitise(name)), *pace, *checks)
    console.print(made, paces, sep="\n")
    made = table("Labels by their verdicts, most judged predicates first", "predicate", "right", "wrong", "unsure")
    for name, counts in list(summary.predicates.items())[:SHOWN]:
        made.add_row(Text(sanitise(name)), *(f"{counts.get(word, 0):,}" for word in ("right", "wrong", "unsure")))
    console.print(made)
    if len(summary.reviewers) > 1:
        print(f"agreement of all reviewers: Fleiss' kappa {_kappa(summary.agreement.fleiss)}")
        print(f"  Krippendorff's alpha {_kappa(summary.agreement.krippendorff)}")
    if summary.audit is not None:
        print(summary.audit.in_words())
    for text in summary.damaged:
        print(f"not read: {sanitise(text)}")


def _kappa(kappa: Kappa) -> str:
    value = "undefined" if kappa.value is None else f"{kappa.value:.2f}"
    return f"{value} on {kappa.items:,} relations that several reviewers judged"
