"""Converts scores to probabilities by a line on the score's logit, fitted on labels whose truth is known.

Because of the focal loss and rare positives, a tagger's scores are not probabilities. Each predicate with enough labels
has its own line, pulled towards the common line of all predicates, the more strongly the fewer labels it has.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
from numpy.typing import NDArray

BINS = 15
_STRENGTH = 5.0
"""How strongly a predicate's line is pulled towards the common one: a penalty on the squared differences."""
_FEWEST = 20
"""Minimum number of labels for a predicate to get its own line."""
_EDGE = 1e-6

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Line:
    """Logit of the probability = `scale` (an inverse temperature) · logit of the score + `offset`."""

    scale: float = 1.0
    offset: float = 0.0


@dataclass(frozen=True)
class Calibration:
    """Maps scores to probabilities: a line per frequent predicate, and the common line for all others."""

    common: Line = Line()
    lines: Mapping[str, Line] = field(default_factory=dict)

    @classmethod
    def fit(cls, predicates: Sequence[str], scores: Sequence[float], truth: Sequence[bool]) -> Calibration:
        """Fits the likeliest lines. Without labels, scores stay unchanged."""
        if not predicates:
            return cls()
        logits, right = _logits(np.asarray(scores, np.float64)), np.asarray(truth, np.float64)
        common = _fitted(logits, right, Line(), 1.0)
        names = np.asarray(predicates, dtype=object)
        lines = {}
        for name in sorted(set(predicates)):
            own = names == name
            if own.sum() >= _FEWEST:
                lines[name] = _fitted(logits[own], right[own], common, _STRENGTH)
        return cls(common, lines)

    def probability(self, predicate: str, score: float) -> float:
        """Returns the probability that a score of this predicate stands for."""
        line = self.lines.get(predicate, self.common)
        return _sigmoid(line.scale * float(_logits(np.array([score]))[0]) + line.offset)

    def to_json(self) -> bytes:
        """Serializes the calibration; equal calibrations give equal bytes."""
        return json.dumps(asdict(self), indent=1, sort_keys=True).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Calibration:
        """Inverts `to_json`. Raises ValueError for any other input."""
        try:
            values = json.loads(data)
            return cls(Line(**values["common"]), {name: Line(**line) for name, line in values["lines"].items()})
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ValueError(f"not a calibration ({error}): {data[:80]!r}") from error


def calibration_error(probabilities: Sequence[float], truth: Sequence[bool], bins: int = BINS) -> float:
    """Expected calibration error: |mean probability - share of right labels| of each bin, weighted by bin size.

    Bins have equal width. The error is 0 without labels.
    """
    if not len(probabilities):
        return 0.0
    confidences, right = np.asarray(probabilities, np.float64), np.asarray(truth, np.float64)
    places = np.minimum((confidences * bins).astype(int), bins - 1)
    apart = np.abs(np.bincount(places, confidences, bins) - np.bincount(places, right, bins))
    return float(apart.sum() / len(confidences))


def _fitted(logits: Numbers, right: Numbers, near: Line, strength: float) -> Line:
    # Imported here because it takes a third of a second, and most readers of a calibration fit none.
    from scipy.optimize import minimize

    def loss(line: Numbers) -> tuple[float, Numbers]:
        raised = line[0] * logits + line[1]
        wrong = 1 / (1 + np.exp(-raised)) - right
        away = line - np.array([near.scale, near.offset])
        value = float((np.logaddexp(0, raised) - right * raised).sum() + strength / 2 * (away**2).sum())
        return value, np.array([(wrong * logits).sum(), wrong.sum()]) + strength * away

    # A falling line would reverse the ranking.
    fit = minimize(loss, [near.scale, near.offset], jac=True, method="L-BFGS-B", bounds=[(0.01, None), (None, None)])
    return Line(round(float(fit.x[0]), 6), round(float(fit.x[1]), 6))


def _logits(scores: Numbers) -> Numbers:
    kept = np.clip(scores, _EDGE, 1 - _EDGE)
    logits: Numbers = np.log(kept) - np.log1p(-kept)
    return logits


def _sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value)) if value >= 0 else math.exp(value) / (1 + math.exp(value))
