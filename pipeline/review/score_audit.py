"""Audits labels from counts per score bin: precision, recall and calibration, without the labels themselves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.review.partition_rows import BINS
from tagger.labelling import calibration

Counts = npt.NDArray[np.int64]


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
    given: int
    """Ground-truth relations; the two directions of a symmetric predicate count once."""
    reachable: int
    """Ground-truth relations that a candidate proposes."""
    proposed: int
    """Distinct labels that candidates propose, all of which naive matching accepts."""
    facts: BinnedLabels
    score: BinnedLabels
    probability: BinnedLabels

    def curve(self) -> list[tuple[float, float, float]]:
        """(Lowest score, recall over all ground-truth relations, precision), from the highest score down."""
        by_truth = self.facts.numbers[:, :, :2].sum(axis=1)
        labels, right = by_truth.sum(axis=1)[::-1].cumsum(), by_truth[:, 1][::-1].cumsum()
        return [
            ((BINS - 1 - place) / BINS, int(right[place]) / self.given, int(right[place]) / int(labels[place]))
            for place in range(BINS)
            if labels[place] and self.given
        ]

    @property
    def kept(self) -> int:
        """Distinct kept labels."""
        return int(self.facts.numbers[:, 1, :2].sum())

    @property
    def right(self) -> int:
        """Kept labels that are in the ground truth."""
        return int(self.facts.numbers[:, 1, 1].sum())

    @property
    def precision(self) -> float | None:
        """Share of the kept labels that are in the ground truth."""
        return self.right / self.kept if self.kept else None

    @property
    def recall(self) -> float | None:
        """Share of the ground-truth relations that are kept."""
        return self.right / self.given if self.given else None

    @property
    def naive_precision(self) -> float | None:
        """Share of the proposed labels that are in the ground truth."""
        return self.reachable / self.proposed if self.proposed else None

    @property
    def naive_recall(self) -> float | None:
        """Share of the ground-truth relations that are proposed."""
        return self.reachable / self.given if self.given else None
