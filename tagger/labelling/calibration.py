"""From scores to probabilities: a line on the score's logit, fitted on labels whose truth is known.

A focal loss and rare positives leave a tagger's scores without the meaning of a probability. Each predicate that was
seen often enough has a line of its own, held near the line of all predicates together by as much as it was seen little.
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
"""How strongly a predicate's line is held to the common one: a penalty on the squares of its differences."""
_FEWEST = 20
"""Labels with which a predicate gets a line of its own."""
_EDGE = 1e-6

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Line:
    """Logit of the probability = `scale` (an inverse temperature) · logit of the score + `offset`."""

    scale: float = 1.0
    offset: float = 0.0


@dataclass(frozen=True)
class Calibration:
    """A line for each predicate that has one, and the common one for all others."""

    common: Line = Line()
    lines: Mapping[str, Line] = field(default_factory=dict)

    @classmethod
    def fit(cls, predicates: Sequence[str], scores: Sequence[float], truth: Sequence[bool]) -> Calibration:
        """The likeliest lines. Without labels the scores stay as they are."""
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
        """What a score of this predicate stands for."""
        line = self.lines.get(predicate, self.common)
        return _sigmoid(line.scale * float(_logits(np.array([score]))[0]) + line.offset)

    def to_json(self) -> bytes:
        """Equal calibrations give equal bytes."""
        return json.dumps(asdict(self), indent=1, sort_keys=True).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Calibration:
        """The inverse of `to_json`. Raises ValueError when something else is given."""
        try:
            values = json.loads(data)
            return cls(Line(**values["common"]), {name: Line(**line) for name, line in values["lines"].items()})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"not a calibration ({error}): {data[:80]!r}") from error


def calibration_error(probabilities: Sequence[float], truth: Sequence[bool], bins: int = BINS) -> float:
    """Expected calibration error: mean distance of a bin's mean probability and its share of right ones, by its size.

    Bins are of equal width. 0 without labels.
    """
    if not len(probabilities):
        return 0.0
    given, right = np.asarray(probabilities, np.float64), np.asarray(truth, np.float64)
    places = np.minimum((given * bins).astype(int), bins - 1)
    apart = np.abs(np.bincount(places, given, bins) - np.bincount(places, right, bins))
    return float(apart.sum() / len(given))


def _fitted(logits: Numbers, right: Numbers, near: Line, strength: float) -> Line:
    # Here, since importing it takes a third of a second, and most who read a calibration fit none.
    from scipy.optimize import minimize

    def loss(line: Numbers) -> tuple[float, Numbers]:
        raised = line[0] * logits + line[1]
        wrong = 1 / (1 + np.exp(-raised)) - right
        away = line - np.array([near.scale, near.offset])
        value = float((np.logaddexp(0, raised) - right * raised).sum() + strength / 2 * (away**2).sum())
        return value, np.array([(wrong * logits).sum(), wrong.sum()]) + strength * away

    # A line that falls would turn the ranking round.
    found = minimize(loss, [near.scale, near.offset], jac=True, method="L-BFGS-B", bounds=[(0.01, None), (None, None)])
    return Line(round(float(found.x[0]), 6), round(float(found.x[1]), 6))


def _logits(scores: Numbers) -> Numbers:
    kept = np.clip(scores, _EDGE, 1 - _EDGE)
    logits: Numbers = np.log(kept) - np.log1p(-kept)
    return logits


def _sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value)) if value >= 0 else math.exp(value) / (1 + math.exp(value))
