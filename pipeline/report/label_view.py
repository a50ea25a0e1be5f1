"""Extra output of `rlip show RUN tag`: label funnel, score histogram, frequent predicates, audits and coverage."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from pipeline.labels.coverage import LabelCoverage
from pipeline.labels.flat_list import FlatList
from pipeline.labels.kept_labels import choice_or_all
from pipeline.labels.label_audit import LabelAudit, LabelScores
from pipeline.labels.label_funnel import LabelFunnel, PredicateCount
from pipeline.labels.labelled_partitions import partition_artifacts
from pipeline.report.figures import count_labels
from pipeline.report.formatting import sanitise, share, table
from pipeline.runtime.stage import dataset_of
from storage.runs import Run

BINS = 10
MAX_PREDICATES = 12
MAX_CONFUSIONS = 3
MAX_MISSING = 15
_BAR = 40


@dataclass(frozen=True)
class LabelView:
    """The labels of a run. `scores`: counts per tenth of [0, 1]; `audits`: by dataset that gives relations.

    `coverage`: by dataset whose images the run has.
    """

    choice: str
    """Description of which labels are kept."""
    counts: LabelFunnel
    scores: tuple[int, ...]
    predicates: tuple[PredicateCount, ...]
    audits: dict[str, LabelAudit]
    coverage: dict[str, LabelCoverage]

    @classmethod
    def of(cls, run: Run) -> LabelView:
        """Computes the view from the artifacts of a run; its recipe decides which labels are kept."""
        choice = choice_or_all(run)
        datasets, spread = sorted(set(map(dataset_of, run.artifacts("tag")))), np.zeros(BINS, np.int64)
        for found in partition_artifacts(run, datasets).values():
            if (tagged := found.fitting().tagged) is not None:
                scores = FlatList.of(tagged.table("relations"), "relations").numbers("score")
                # A score of 1 belongs to the last bin.
                spread += np.bincount(np.minimum((scores * BINS).astype(int), BINS - 1), minlength=BINS)
        tally, counts = count_labels(run, datasets, choice)
        audits = {each.dataset: replace(each.labels.audit(), rules=each.labels.rules()) for each in counts}
        coverage = {each.dataset: each.covered.coverage() for each in counts}
        return cls(
            choice.in_words(),
            tally.funnel(),
            tuple(spread.tolist()),
            tally.predicates(),
            {dataset: audit for dataset, audit in audits.items() if audit.given},
            {dataset: each for dataset, each in coverage.items() if each is not None},
        )

    def print(self, console: Console) -> None:
        """Prints the tables."""
        levels = (
            f"{count:,} {f'kept ({self.choice})' if name == 'kept' else name}" for name, count in self.counts.levels()
        )
        console.print(Text(sanitise(" → ".join(levels))))
        parts: list[RenderableType] = [self._losses()] if self.counts.lost else []
        parts += [self._spread(), self._usual()]
        for dataset in sorted(self.audits.keys() | self.coverage.keys()):
            parts += [_audited(dataset, self.audits[dataset], self.choice)] if dataset in self.audits else []
            parts += _covered(dataset, self.coverage[dataset]) if dataset in self.coverage else []
        if not self.audits:
            parts.append(Text("No audit: no relations to compare with, or images were ingested again after labelling"))
        for part in parts:
            console.print()
            console.print(part)
        console.print()

    def _losses(self) -> Table:
        losses = table("What went no further, and why", "of", "number", "reason", texts=("reason",))
        for level, reasons in self.counts.lost.items():
            for place, (reason, count) in enumerate(reasons.items()):
                losses.add_row("" if place else level, f"{count:,}", Text(sanitise(reason)))
        return losses

    def _spread(self) -> Table:
        longest = max(self.scores) or 1
        histogram = table("Scores", "from", "labels", "", texts=("",))
        for place, count in enumerate(self.scores):
            # Even a single label gets a visible bar.
            bar = "█" * max(round(_BAR * count / longest), count > 0)
            histogram.add_row(f"{place / BINS:.1f}", f"{count:,}", Text(bar))
        return histogram

    def _usual(self) -> Table:
        most = f", most frequent of {len(self.predicates):,}" if len(self.predicates) > MAX_PREDICATES else ""
        frequent = table(f"Predicates{most}", "predicate", "kept", "in the ground truth")
        known = any(each.given for each in self.predicates)
        for each in self.predicates[:MAX_PREDICATES]:
            frequent.add_row(Text(sanitise(each.predicate)), f"{each.kept:,}", f"{each.given:,}" if known else "–")
        return frequent


def _audited(dataset: str, audit: LabelAudit, choice: str) -> Group:
    title = f"Labels of {sanitise(dataset)}, on the {audit.images:,} images with ground truth: {audit.in_words}"
    methods = methods_table(title, audit, choice)
    rules = table(
        "Every rule at the threshold with its highest F1 on these labels", "confidence, rule", "threshold", "precision",
        "recall of all", "F1", f"precision at {REACHABLE_RECALL}",
    )  # fmt: skip
    for rule in audit.rules:
        at_recall = rule.precision_at_recall or None
        # In full: a rounded threshold may exclude the label that decided it.
        rules.add_row(rule.rule, f"{rule.threshold:g}", *map(share, (rule.precision, rule.recall, rule.f1, at_recall)))
    of_probabilities = "labels have no probabilities"
    if audit.probability_error is not None:
        of_probabilities = f"{share(audit.probability_error)} for probabilities"
    errors = f"Calibration error: {share(audit.score_error)} for raw scores, {of_probabilities}"
    by_predicate = table(
        "By predicate, most kept first; recall of its reachable relations", "predicate", "kept", "reachable",
        "precision", "recall", "average precision", "calibration error", "correct where wrong",
        texts=("correct where wrong",),
    )  # fmt: skip
    for each in audit.predicates[:MAX_PREDICATES]:
        instead = ", ".join(f"{sanitise(what)} {count:,}" for what, count in each.instead[:MAX_CONFUSIONS])
        ranked = each.average_precision if each.truths else None
        numbers = (each.precision, each.recall, ranked, each.calibration_error)
        by_predicate.add_row(
            Text(sanitise(each.predicate)), f"{each.kept:,}", f"{each.truths:,}", *map(share, numbers), Text(instead)
        )
    return Group(methods, Text(), rules, Text(errors), Text(), by_predicate)


REACHABLE_RECALL = "recall .8 of the reachable"


SCORES = ("kept", "precision", "recall of all", f"precision at {REACHABLE_RECALL}", "average precision of all scored")
"""Columns of `score_cells`."""


def score_cells(scores: LabelScores) -> tuple[str, ...]:
    """The cells of a labelling method: labels kept, precision, recall, precision at recall .8 and average precision."""
    values = (scores.precision, scores.recall, scores.precision_at_recall, scores.average_precision)
    return (f"{scores.kept:,}", *map(share, values))


def methods_table(title: str, audit: LabelAudit, choice: str) -> Table:
    """A row for each way to label."""
    methods = table(title, "labels", *SCORES)
    for name, scores in audit.methods(choice):
        methods.add_row(name, *score_cells(scores))
    return methods


def _covered(dataset: str, coverage: LabelCoverage) -> list[Table]:
    spread = table(
        f"Coverage of {sanitise(dataset)}, per image of {coverage.images:,} tagged ones with boxes",
        "relations", "number", "mean", "median", "without", "predicates", "tail",
    )  # fmt: skip
    for name, found in (("kept", coverage.kept), ("in the ground truth", coverage.given)):
        if found is not None:
            mean, median = ("–" if value is None else f"{value:.2f}" for value in (found.mean, found.median))
            numbers = (f"{found.relations:,}", mean, median, share(found.share_without), f"{found.predicates:,}")
            spread.add_row(name, *numbers, share(found.tail_share))
    missing = table("Predicates that no kept label has", "of", "missing", "why", "which", texts=("why", "which"))
    for each in coverage.lists:
        missing.add_row(each.name, f"{each.missing:,} of {each.predicates:,}")
        for reason, count in each.reasons.items():
            named = each.by_reason()[reason][:MAX_MISSING]
            more = f" (+{count - len(named):,})" if count > len(named) else ""
            missing.add_row("", f"{count:,}", reason, Text(", ".join(map(sanitise, named)) + more))
    pairs = table("Precision by the pair's geometry", "measure", "bin", "kept", "precision", "naive", "naive precision")
    for place, row in enumerate(coverage.geometry):
        repeated = place and coverage.geometry[place - 1].measure == row.measure
        kept, naive = (f"{row.kept:,}", share(row.precision)), (f"{row.naive:,}", share(row.naive_precision))
        pairs.add_row("" if repeated else row.measure, row.bin, *kept, *naive)
    return [spread, missing, *([pairs] if coverage.geometry else [])]
