"""Counts over all labels of an index, by the database, and what follows from them: precision, recall, calibration."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.labels.label_audit import LEARNED, learned_from
from pipeline.labels.label_funnel import LabelFunnel, LabelTally
from pipeline.review.index import ReviewIndex
from pipeline.review.partition_rows import BINS
from tagger.audit.labels import Agreement
from tagger.labelling import calibration

Counts = npt.NDArray[np.int64]
MOST_AN_IMAGE = 20
"""Images with at least this many kept labels are counted together."""


@dataclass(frozen=True)
class BinnedLabels:
    """Label counts by bin. Axes: bin, kept (no, yes), correct (no, yes, unknown)."""

    numbers: Counts
    totals: npt.NDArray[np.float64]
    """Sum of the binned values in each bin."""

    @classmethod
    def of(cls, rows: Iterable[Mapping[str, Any]]) -> BinnedLabels:
        """The sum of rows of the index's table `scores`."""
        numbers, totals = np.zeros((BINS, 2, 3), np.int64), np.zeros((BINS, 2, 3))
        for row in rows:
            known = 2 if row["correct"] is None else int(row["correct"])
            place = row["bin"], int(row["kept"]), known
            numbers[place] += row["number"]
            totals[place] += row["total"]
        return cls(numbers, totals)

    def spread(self, bins: int) -> Counts:
        """Labels that are not kept and kept, in fewer bins of equal width: bins x 2."""
        found: Counts = self.numbers.sum(axis=2).reshape(bins, -1, 2).sum(axis=1)
        return found

    def reliability(self) -> list[tuple[float, float, int]]:
        """(Mean value, share of correct labels, number of labels) of each non-empty bin of the calibration error."""
        return [
            (float(total / n.sum()), float(n[1] / n.sum()), int(n.sum()))
            for n, total in zip(*self._known(), strict=True)
            if n.sum()
        ]

    def _known(self) -> tuple[Counts, npt.NDArray[np.float64]]:
        """Labels of known truth in the bins of the calibration error: numbers by truth, and sums of values."""
        numbers, totals = (
            values[..., :2].sum(axis=1).reshape(calibration.BINS, -1, 2).sum(axis=1)
            for values in (self.numbers, self.totals)
        )
        return numbers, totals.sum(axis=1)

    def calibration_error(self) -> float | None:
        """Expected calibration error, as `calibration_error` defines it; None without labels of known truth."""
        numbers, totals = self._known()
        labels = int(numbers.sum())
        return calibration.binned_calibration_error(totals, numbers[:, 1], labels) if labels else None


@dataclass(frozen=True)
class ScoreAudit:
    """The labels of a dataset compared with its ground truth, on the images that have any.

    Curves have one point per score bin, whereas those of `LabelAudit` have one per score.
    """

    dataset: str
    images: int
    kept: Agreement
    """Of the distinct kept labels; the two directions of a symmetric predicate count once."""
    naive: Agreement
    """Of the distinct labels that candidates propose, all of which naive matching accepts."""
    facts: BinnedLabels
    score: BinnedLabels
    probability: BinnedLabels
    caveat: str
    """The one of `LEARNED` that applies."""

    def curve(self) -> list[tuple[float, float, float]]:
        """(Lowest score, recall over all ground-truth relations, precision), from the highest score down."""
        by_truth = self.facts.numbers[:, :, :2].sum(axis=1)
        labels, right = by_truth.sum(axis=1)[::-1].cumsum(), by_truth[:, 1][::-1].cumsum()
        return [
            ((BINS - 1 - place) / BINS, int(right[place]) / self.kept.truths, int(right[place]) / int(labels[place]))
            for place in range(BINS)
            if labels[place]
        ]


@dataclass(frozen=True)
class PredicateFacts:
    """The labels of one canonical predicate."""

    predicate: str
    scored: int
    kept: int
    given: int
    """Number of ground-truth relations with it."""
    precision: float | None
    """Share of the kept labels that are in the ground truth, on images that have any."""


@dataclass(frozen=True)
class LabelFacts:
    """Counts over all labels of an index."""

    funnel: LabelFunnel
    predicates: tuple[PredicateFacts, ...]
    """In descending order of kept labels."""
    scores: BinnedLabels
    audits: tuple[ScoreAudit, ...]
    """One for each dataset with ground-truth relations."""
    density: tuple[int, ...]
    """Number of images with 0, 1, ..., `MOST_AN_IMAGE` kept labels."""
    quarantined: frozenset[str]
    """The reasons why stages rejected rows."""


def label_facts(index: ReviewIndex) -> LabelFacts:
    """The facts of the index's present rows."""
    return index.once("facts", lambda: _facts_of(index))


def _facts_of(index: ReviewIndex) -> LabelFacts:
    counts = index.rows("SELECT level, name, sum(number)::BIGINT AS number FROM counts GROUP BY ALL")
    tally = LabelTally({(row["level"], row["name"]): row["number"] for row in counts})
    given = {each.predicate: each.given for each in tally.predicates()}
    predicates = [
        PredicateFacts(
            row["predicate"], row["scored"], row["kept"], given.get(row["predicate"], 0),
            row["correct"] / row["judged"] if row["judged"] else None,
        )
        for row in index.rows("SELECT * FROM predicates ORDER BY kept DESC, scored DESC, predicate")
    ]  # fmt: skip
    density = [0] * (MOST_AN_IMAGE + 1)
    sql = "SELECT least(kept, $most) AS kept, count(*) AS images FROM images GROUP BY ALL"
    for row in index.rows(sql, {"most": MOST_AN_IMAGE}):
        density[row["kept"]] += row["images"]
    reasons = index.rows("SELECT DISTINCT reason FROM quarantined")
    scores = index.rows(f"SELECT {_BINNED} FROM scores WHERE measure = 'score' GROUP BY ALL")
    return LabelFacts(
        funnel=tally.funnel(),
        predicates=tuple(predicates),
        scores=BinnedLabels.of(scores),
        audits=_audits(index),
        density=tuple(density),
        quarantined=frozenset(row["reason"] for row in reasons),
    )


_BINNED = "bin, kept, correct, sum(number)::BIGINT AS number, sum(total) AS total"
_DATASET = "split_part(partition, '/', 1) AS dataset"


def _audits(index: ReviewIndex) -> tuple[ScoreAudit, ...]:
    counted = index.rows(
        f"SELECT {_DATASET}, level, sum(number)::BIGINT AS number FROM counts JOIN parts USING (part) "
        "WHERE level LIKE 'audited %' GROUP BY ALL"
    )
    binned = index.rows(
        f"SELECT {_DATASET}, measure, {_BINNED} FROM scores JOIN parts USING (part) "
        "WHERE correct IS NOT NULL GROUP BY ALL"
    )
    found = []
    datasets = sorted({row["dataset"] for row in counted})
    learned = learned_from(index.view.run, datasets)
    for dataset in datasets:
        levels = {row["level"]: row["number"] for row in counted if row["dataset"] == dataset}
        of_set = [row for row in binned if row["dataset"] == dataset]
        facts, score, probability = (
            BinnedLabels.of(row for row in of_set if row["measure"] == name)
            for name in ("fact", "score", "probability")
        )
        if given := levels["audited given"]:
            wrong, right = facts.numbers[:, 1, :2].sum(axis=0).tolist()
            naive = Agreement(levels["audited proposed"], given, levels["audited reachable"])
            kept = Agreement(wrong + right, given, right)
            images = levels["audited images"]
            found.append(ScoreAudit(dataset, images, kept, naive, facts, score, probability, LEARNED[learned[dataset]]))
    return tuple(found)
