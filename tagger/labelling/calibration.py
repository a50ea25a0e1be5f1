"""Converts facts about a label to probabilities with logistic models, fitted on labels whose truth is known.

Because of the focal loss and rare positives, a tagger's scores are not probabilities. Each predicate with enough labels
has its own line on the score's logit, pulled towards the common line of all predicates, the more strongly the fewer
labels it has. A `Stack` (stacked generalization; Wolpert 1992) adds what boxes, names and captions know.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tagger.english.predicates import canonical

BINS = 15
_STRENGTH = 5.0
"""How strongly a predicate's line is pulled towards the common one: a penalty on the squared differences."""
_FEWEST = 20
"""Minimum number of labels for a predicate to get its own line."""
_COMMON_STRENGTH, _STACK_STRENGTH = 10.0, 30.0
"""How strongly the common line is pulled towards the scores as they are, and the weights of a stack to the defaults."""
USUAL_SUPPORT = 2
"""Support at which captions contribute nothing. Held-out images have no captions and stand for the usual."""
EDGE = 1e-6
"""Minimum distance of probabilities from 0 and 1."""

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class PlattScaling:
    """Logit of the probability = `scale` (an inverse temperature) · logit of the score + `offset`."""

    scale: float = 1.0
    offset: float = 0.0


class Parts(NamedTuple):
    """What each part adds to the log-odds that a label is right."""

    tagger: float
    prior: float
    posterior: float
    captions: float


def features(probability: float, prior: float, posterior: float, support: int) -> Parts:
    """Returns the features of a label, which a stack weighs: its calibrated probability, and those of its candidate."""
    return Parts(
        _logit(probability),
        math.log(max(prior, EDGE)),
        math.log(max(posterior, EDGE)),
        math.log(max(support, 1) / USUAL_SUPPORT),
    )


@dataclass(frozen=True)
class Stack:
    """Weights of the features. Logit of the probability that a label holds for its exact pair = their sum + `offset`.

    The defaults were fitted on the synthetic world; real images gave captions the same weight. Nothing else is known
    of the weight of captions, since the images that a tagger holds out have none.
    """

    tagger: float = 1.0
    prior: float = 1.0
    posterior: float = 1.0
    captions: float = 0.8
    offset: float = 0.5

    @classmethod
    def fit(cls, labels: Sequence[Parts], truth: Sequence[bool]) -> Stack:
        """Fits the likeliest weights near the defaults, none below 0. `labels`: the features of each."""
        columns = np.column_stack([np.array(labels, np.float64).reshape(-1, len(Parts._fields)), np.ones(len(labels))])
        return cls(*_fitted(columns, np.asarray(truth, np.float64), np.array(astuple(cls())), _STACK_STRENGTH))

    def parts(self, label: Parts) -> Parts:
        """Returns what each part contributes, from the features of a label."""
        return Parts(*(weight * value for weight, value in zip(astuple(self), label, strict=False)))

    def probability(self, parts: Parts) -> float:
        """Returns the probability that follows from the contributions."""
        return _sigmoid(self.offset + math.fsum(parts))


@dataclass(frozen=True)
class Calibration:
    """Maps scores to probabilities: a line per frequent canonical predicate, and the common line for all others.

    `stack` adds the other parts. Its defaults serve taggers without held-out images.
    """

    common: PlattScaling = PlattScaling()
    lines: Mapping[str, PlattScaling] = field(default_factory=dict)
    stack: Stack = Stack()

    @classmethod
    def fit(cls, predicates: Sequence[str], scores: Sequence[float], truth: Sequence[bool]) -> Calibration:
        """Fits the likeliest lines, to predicates in any wording. Without labels, scores stay unchanged."""
        if not predicates:
            return cls()
        logits, right = _logits(np.asarray(scores, np.float64)), np.asarray(truth, np.float64)
        columns = np.column_stack([logits, np.ones(len(logits))])
        common = PlattScaling(*_fitted(columns, right, np.array(astuple(PlattScaling())), _COMMON_STRENGTH))
        names = np.array([canonical(predicate) for predicate in predicates], dtype=object)
        lines = {}
        for name in sorted(set(names)):
            own = names == name
            if own.sum() >= _FEWEST:
                lines[name] = PlattScaling(*_fitted(columns[own], right[own], np.array(astuple(common)), _STRENGTH))
        return cls(common, lines)

    @classmethod
    def mean(cls, of: Sequence[Calibration]) -> Calibration:
        """Returns the mean of the calibrations of taggers whose labels are compared, such as those of several folds."""
        names = sorted({name for each in of for name in each.lines})
        lines = {name: PlattScaling(*_means([each.lines.get(name, each.common) for each in of])) for name in names}
        return cls(
            PlattScaling(*_means([each.common for each in of])), lines, Stack(*_means([each.stack for each in of]))
        )

    def probability(self, predicate: str, score: float) -> float:
        """Returns the probability that a score of this predicate, in any wording, stands for."""
        line = self.lines.get(canonical(predicate), self.common)
        return _sigmoid(line.scale * _logit(score) + line.offset)

    def to_json(self) -> bytes:
        """Serializes the calibration; equal calibrations give equal bytes."""
        return json.dumps(asdict(self), indent=1, sort_keys=True).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Calibration:
        """Inverts `to_json`. Raises ValueError for any other input."""
        try:
            values = json.loads(data)
            lines = {name: PlattScaling(**line) for name, line in values["lines"].items()}
            # Taggers of earlier versions have no stack.
            return cls(PlattScaling(**values["common"]), lines, Stack(**values.get("stack", {})))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ValueError(f"not a calibration ({error}): {data[:80]!r}") from error


def calibration_error(probabilities: ArrayLike, truth: ArrayLike, bins: int = BINS) -> float | None:
    """Expected calibration error: |mean probability - share of right labels| of each bin, weighted by bin size.

    Bins have equal width. None without labels.
    """
    confidences, right = np.asarray(probabilities, np.float64), np.asarray(truth, np.float64)
    places = np.minimum((confidences * bins).astype(int), bins - 1)
    binned = np.bincount(places, confidences, bins), np.bincount(places, right, bins)
    return binned_calibration_error(*binned, len(confidences)) if len(confidences) else None


def binned_calibration_error(probabilities: ArrayLike, right: ArrayLike, labels: int) -> float:
    """`calibration_error` from the sum of probabilities and the number of right labels in each bin."""
    return float(np.abs(np.subtract(probabilities, right)).sum() / labels)


def _means(of: Sequence[PlattScaling | Stack]) -> list[float]:
    """The means of the fields."""
    columns = zip(*(astuple(each) for each in of), strict=True)
    return [math.fsum(column) / len(of) for column in columns]


def _fitted(columns: Numbers, right: Numbers, near: Numbers, strength: float) -> list[float]:
    """Fits the coefficients of F columns (N×F; the last is 1) by penalized maximum likelihood."""
    # Imported here because it takes a third of a second, and most readers of a calibration fit none.
    from scipy.optimize import minimize

    def loss(coefficients: Numbers) -> tuple[float, Numbers]:
        raised = columns @ coefficients
        wrong = 1 / (1 + np.exp(-raised)) - right
        away = coefficients - near
        value = float((np.logaddexp(0, raised) - right * raised).sum() + strength / 2 * (away**2).sum())
        return value, wrong @ columns + strength * away

    # A falling line would reverse the ranking.
    bounds = [(0.01, None)] * (len(near) - 1) + [(None, None)]
    fit = minimize(loss, near, jac=True, method="L-BFGS-B", bounds=bounds)
    return [round(float(value), 6) for value in fit.x]


def _logits(scores: Numbers) -> Numbers:
    kept = np.clip(scores, EDGE, 1 - EDGE)
    logits: Numbers = np.log(kept) - np.log1p(-kept)
    return logits


def _logit(probability: float) -> float:
    return float(_logits(np.array([probability]))[0])


def _sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value)) if value >= 0 else math.exp(value) / (1 + math.exp(value))
