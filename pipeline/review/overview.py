"""The overview of a run: steps, funnel with every loss, and figures of its labels, each linked to what it counts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, NamedTuple
from urllib.parse import urlencode

import numpy as np

from pipeline.labels.audit_sample import AuditPrecision
from pipeline.labels.label_funnel import LabelFunnel
from pipeline.report.charts import Plot
from pipeline.report.names import NAMES
from pipeline.review.audit import ReviewerProgress
from pipeline.review.diagrams import Histogram, graph, histogram, long_tail, shares
from pipeline.review.label_facts import MOST_AN_IMAGE, BinnedLabels, LabelFacts, PredicateFacts, ScoreAudit, label_facts
from pipeline.review.review_state import ReviewState
from pipeline.review.search import LONGEST_NAME, Search

BARS = 20
"""Number of bins of the score histogram."""
MOST_PREDICATES = 20
"""Number of predicates in the table; the curve has all."""
_ADDRESSES = {"images": "images", "scored": "labels", "kept": f"labels?{Search(kept='yes').query()}"}


class Level(NamedTuple):
    """A level of the funnel. `address` lists its items.

    `losses`: why some of them led no further, how many, and the address that lists them, "" if no search finds them.
    """

    name: str
    number: int
    address: str
    losses: Sequence[tuple[str, int, str]]
    note: str = ""

    @property
    def lost(self) -> int:
        """Number of items that led no further."""
        return sum(number for _, number, _ in self.losses)


@dataclass(frozen=True)
class ReviewWork:
    """What a reviewer can do next."""

    labels: int
    """Labels of the audit in the reviewer's share."""
    judged: int
    minutes: float | None
    """Time left for the audit, at the reviewer's median pace; None without a timed verdict."""
    adjudication: int
    """Disagreements that the reviewer can settle."""
    checks: int
    """Labels of accepted classes in the reviewer's share that are to be asked."""
    team: tuple[ReviewerProgress, ...]
    """Everyone's share of the audit; empty without a team."""
    precision: AuditPrecision


def work_of(state: ReviewState, reviewer: str) -> ReviewWork:
    """What a reviewer can do next."""
    seat, progress = state.shares.seat(reviewer), state.shares.progress(reviewer)
    own = next((each for each in progress if each.name == reviewer), ReviewerProgress(reviewer, 0, 0))
    paces = [each.seconds for each in state.reviews.log.standing_of(reviewer) if each.seconds is not None]
    queues = Search(order="adjudication"), Search(order="check", share="mine")
    adjudication, checks = (state.listing.count_now(queue.seen_by(reviewer, seat)) for queue in queues)
    return ReviewWork(
        labels=own.labels,
        judged=own.judged,
        minutes=(own.labels - own.judged) * median(paces) / 60 if paces else None,
        adjudication=adjudication,
        checks=checks,
        team=tuple(progress) if state.shares.team is not None else (),
        precision=state.audit.precision(),
    )


def overview_of(state: ReviewState) -> dict[str, Any]:
    """What the overview page shows of a run's present state. Counts over all labels are cached until the run changes."""
    facts, steps = label_facts(state.index), state.progress.steps()
    score_rows = _score_rows(facts.scores)
    images = sum(facts.density)
    kept = sum(each.kept for each in facts.predicates)
    return {
        "steps": steps,
        "graph": graph(steps),
        "choice": state.view.choice.in_words(),
        "levels": list(_levels(facts.funnel, facts.quarantined)),
        "predicates": _bars(facts.predicates),
        "number_of_predicates": sum(each.kept > 0 for each in facts.predicates),
        "tail": long_tail([each.kept for each in facts.predicates]),
        "scores": _scores(score_rows),
        "score_rows": score_rows,
        "density": _density(facts),
        "mean_density": kept / images if images else None,
        "audits": [_audit_view(audit) for audit in facts.audits],
        "comparison": state.comparison.summary(),
        "differences": state.comparison.differences(),
    }


def _levels(funnel: LabelFunnel, quarantined: frozenset[str]) -> Iterator[Level]:
    for name, number in funnel.levels():
        lost = funnel.lost.get(name, {}).items()
        losses = [(reason, count, _loss_address(name, reason, quarantined)) for reason, count in lost]
        note = f"with {funnel.unproposed:,} that no caption proposes" if name == "scored" and funnel.unproposed else ""
        yield Level(NAMES["levels"][name], number, _ADDRESSES.get(name, ""), losses, note)


def _loss_address(level: str, reason: str, quarantined: frozenset[str]) -> str:
    if level == "scored":
        return f"labels?{Search(reason=reason).query()}"
    return f"quarantined?{urlencode({'reason': reason})}" if reason in quarantined else ""


def _bars(predicates: Sequence[PredicateFacts]) -> list[tuple[PredicateFacts, float, str]]:
    """The most frequent predicates, each with the length of its bar, a share of the longest on a logarithmic scale, and
    the address of its kept labels."""
    shown = [each for each in predicates if each.kept][:MOST_PREDICATES]
    longest = max((np.log10(each.kept + 1) for each in shown), default=1.0)
    return [(each, round(float(np.log10(each.kept + 1) / longest), 3), _kept_of(each.predicate)) for each in shown]


def _kept_of(predicate: str) -> str:
    """The address of a predicate's kept labels; "" if the predicate is too long for a search."""
    return "" if len(predicate) > LONGEST_NAME else f"labels?{Search(predicate=predicate, kept='yes').query()}"


def _score_rows(binned: BinnedLabels) -> list[tuple[str, int, int, str]]:
    """The histogram of scores as a table: bin, labels, kept labels, address."""
    return [
        (f"{place / BARS:.2f}", lost + kept, kept, f"labels?{_bin_search(place).query()}")
        for place, (lost, kept) in enumerate(binned.spread(BARS).tolist())
    ]


def _scores(rows: Sequence[tuple[str, int, int, str]]) -> Histogram:
    ticks = [(place * BARS / 5, f"{place / 5:g}") for place in range(6)]
    drawn = [
        (labels, kept, f"from {least}: {labels:,} labels, {kept:,} kept", address if labels else "")
        for least, labels, kept, address in rows
    ]
    return histogram(drawn, ticks)


def _bin_search(place: int) -> Search:
    """The search for the labels of a bin. Searches include both bounds, so it ends just below the next bin."""
    least, after = place / BARS, (place + 1) / BARS
    return Search(least=least, most=1.0 if place + 1 == BARS else float(np.nextafter(after, 0.0)))


def _density(facts: LabelFacts) -> Histogram:
    names = [f"{number}{'+' if number == MOST_AN_IMAGE else ''}" for number in range(MOST_AN_IMAGE + 1)]
    ticks = [(place + 0.5, names[place]) for place in range(0, MOST_AN_IMAGE + 1, 5)]
    counted = zip(names, facts.density, strict=True)
    return histogram([(images, images, f"{name} kept: {images:,} images", "") for name, images in counted], ticks)


def _audit_view(audit: ScoreAudit) -> dict[str, Any]:
    """The labels of one dataset compared with its ground truth.

    `marks`: x, y, tooltip and CSS class of single points next to the `curve`; `reliability`: how well scores and
    calibrated probabilities match the share of correct labels: name, calibration error and plot of each.
    """
    points = [
        (recall, precision, f"score ≥ {least:.2f}: precision {precision:.3f}, recall {recall:.3f}")
        for least, recall, precision in audit.curve()
    ]
    marks = [
        (recall, precision, f"{name}: precision {precision:.3f}, recall {recall:.3f}", style)
        for style, name, recall, precision in (
            ("kept", "kept labels", audit.recall, audit.precision),
            ("naive", "naive matching", audit.naive_recall, audit.naive_precision),
        )
        if recall is not None and precision is not None
    ]
    return {
        "audit": audit,
        "curve": shares(points),
        "marks": shares(marks).points,
        "reliability": _reliability(audit),
    }


def _reliability(audit: ScoreAudit) -> list[tuple[str, float, Plot]]:
    found = []
    for name, labels in (("scores", audit.score), ("calibrated probabilities", audit.probability)):
        error = labels.calibration_error()
        if error is not None:
            points = [
                (mean, share, f"mean {mean:.3f}, correct {share:.3f}, {n:,} labels")
                for mean, share, n in labels.reliability()
            ]
            found.append((name, error, shares(points)))
    # Uncalibrated labels have their scores as probabilities, which would be drawn twice.
    return found[:1] if np.array_equal(audit.score.totals, audit.probability.totals) else found
