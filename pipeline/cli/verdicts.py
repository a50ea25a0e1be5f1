"""`rlip verdicts`: what reviewers said of labels, thresholds that follow from it, and verdicts from annotation tools."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from pipeline.interop.import_verdicts import AnnotationFormat, import_verdicts
from pipeline.labels.kept_labels import EVERY_LABEL
from pipeline.labels.label_rows import reviewable_labels
from pipeline.labels.verdict_log import VerdictLog, verdicts_folder
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
from storage.open_store import Address, existing_store
from storage.runs import find_run

SHOWN = 20
"""Predicates that a terminal shows."""


def print_verdicts(root: Address, run_name: str | None, folder: Path | None, seed: int, as_json: bool) -> None:
    """Print a summary of a folder of verdicts and, with a run, the precision of its labels."""
    log = _log(root, folder)
    standing = log.standing()
    audit = None
    if run_name is not None:
        audit = audit_of(list(reviewable_labels(find_run(existing_store(root), run_name))), standing, seed)
    found = summarize(log.verdicts(), standing, log.damaged, audit)
    if as_json:
        print(json.dumps(_as_json(found), ensure_ascii=False))
    else:
        _print_summary(found, log.folder)


def print_thresholds(
    root: Address, run_name: str, folder: Path | None, precision: float, fewest: int, as_json: bool
) -> None:
    """Print a section `[shard.thresholds]` whose labels are expected to reach a precision."""
    labels = list(reviewable_labels(find_run(existing_store(root), run_name), all_scores=True))
    found = propose_thresholds(labels, _log(root, folder).standing(), precision, fewest)
    if as_json:
        print(json.dumps([asdict(each) for each in found], ensure_ascii=False))
        return
    if not found:
        raise FatalError(f"no predicate of run {run_name!r} has {fewest} sure verdicts; judge more, or lower --fewest")
    print("[shard.thresholds]")
    for each in found:
        print(_setting(each))


def print_calibration(root: Address, run_name: str, folder: Path | None, fewest: int, as_json: bool) -> None:
    """Print a section `[shard.calibration]` that is fitted on the verdicts about a run's labels."""
    labels = list(reviewable_labels(find_run(existing_store(root), run_name), choice=EVERY_LABEL))
    fitted, judged = fitted_on_verdicts(labels, _log(root, folder).standing())
    number = sum(map(len, judged.values()))
    if number < fewest:
        raise FatalError(f"run {run_name!r} has {number} sure verdicts of {fewest} that are needed; judge more")
    lines = {"": fitted.common, **fitted.lines}
    if as_json:
        print(json.dumps({name: [line.scale, line.offset] for name, line in lines.items()}, ensure_ascii=False))
        return
    print(f'# fitted on {number:,} verdicts; they count with shard.confidence = "calibrated"\n[shard.calibration]')
    for name, line in lines.items():
        print(f"{json.dumps(name, ensure_ascii=False)} = [{line.scale}, {line.offset}]")


def print_import(
    root: Address,
    run_name: str,
    file: Path,
    form: AnnotationFormat | None,
    reviewer: str,
    folder: Path | None,
    additions_only: bool,
    as_json: bool,
) -> None:
    """Append the verdicts that a file of an annotation tool holds, and print how many of each kind."""
    log = _log(root, folder, must_exist=False)
    run = find_run(existing_store(root), run_name)
    verdicts = import_verdicts(run, file, form, reviewer, additions_only)
    log.append(verdicts)
    kinds = dict(Counter(verdict.kind for verdict in verdicts).most_common())
    if as_json:
        print(json.dumps({"verdicts": len(verdicts), "kinds": kinds, "folder": str(log.folder)}, ensure_ascii=False))
        return
    listed = ", ".join(f"{number:,} {kind}" for kind, number in kinds.items()) or "none"
    print(f"{len(verdicts):,} verdicts of {reviewer} appended to {log.folder}: {listed}")


def _log(root: Address, folder: Path | None, must_exist: bool = True) -> VerdictLog:
    place = folder if folder is not None else verdicts_folder(root)
    if must_exist and not place.is_dir():
        raise FatalError(f"no verdicts at {place}; name their folder with --verdicts")
    return VerdictLog(place)


def _setting(proposed: ProposedThreshold) -> str:
    name = json.dumps(proposed.predicate, ensure_ascii=False)
    facts = f"{proposed.verdicts} verdicts, {proposed.labels:,} labels, precision {proposed.precision:.2f}"
    if proposed.threshold is None:
        return f"# {name}: no threshold reaches the precision ({facts})"
    # Rounded down, since a label at the threshold is kept.
    return f"{name} = {int(proposed.threshold * 10**6) / 10**6:g}  # {facts}"


def _as_json(found: VerdictSummary) -> dict[str, Any]:
    plain = asdict(found)
    pairs = [{"reviewers": list(names), **asdict(kappa)} for names, kappa in found.agreement.pairs.items()]
    return {**plain, "agreement": {**plain["agreement"], "pairs": pairs}}


def _print_summary(found: VerdictSummary, folder: Path) -> None:
    console = Console()
    print(f"{found.relations:,} relations judged, {found.undone:,} verdicts taken back or replaced ({folder})")
    made = table("Verdicts", "reviewer", *(kind for kind in KINDS if kind != "undo"), "median seconds")
    for name, counts in found.reviewers.items():
        seconds = found.seconds.get(name)
        shown = [f"{counts.get(kind, 0):,}" for kind in KINDS if kind != "undo"]
        made.add_row(Text(sanitise(name)), *shown, "–" if seconds is None else f"{seconds:.1f}")
    console.print(made)
    made = table("Predicates with the most verdicts", "predicate", "right", "wrong", "unsure")
    for name, counts in list(found.predicates.items())[:SHOWN]:
        made.add_row(Text(sanitise(name)), *(f"{counts.get(word, 0):,}" for word in ("right", "wrong", "unsure")))
    console.print(made)
    if len(found.reviewers) > 1:
        print(f"agreement of all reviewers (Fleiss' kappa): {_kappa(found.agreement.fleiss)}")
        for names, kappa in found.agreement.pairs.items():
            print(f"  {' and '.join(names)} (Cohen's kappa): {_kappa(kappa)}")
    if found.audit is not None:
        print(_audit(found))
    for text in found.damaged:
        print(f"not read: {sanitise(text)}")


def _audit(found: VerdictSummary) -> str:
    audit = found.audit
    if audit is None or audit.precision is None:
        return "precision: the random sample has no verdict yet; judge the queue `audit` of rlip review"
    whole = "" if audit.covered > 0.9995 else f", for the {audit.covered:.0%} of labels whose strata have verdicts"
    return (
        f"precision {audit.precision:.3f} (95 % interval {audit.low:.3f} to {audit.high:.3f}) by {audit.judged:,} verdicts "
        f"of the random sample{whole}; {audit.unsure:,} unsure"
    )


def _kappa(kappa: Kappa) -> str:
    value = "undefined" if kappa.value is None else f"{kappa.value:.2f}"
    return f"{value} on {kappa.items:,} relations that several judged"
