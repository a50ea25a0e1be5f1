"""Which labels to judge first: those whose verdicts tell most (docs/review.md, Queues)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]


def expected_information(
    probabilities: Sequence[float] | Numbers, predicates: Sequence[str], judged: Mapping[str, int] | None = None
) -> Numbers:
    """What a verdict on each of N labels is worth, (N); the queue begins with the largest.

    A label's worth is the entropy of its probability in bits, times √n / (1 + m + k): n labels have its predicate, m of
    which are `judged` already, and it is the k-th most uncertain one of them, counted from 0. Raises ValueError for numbers
    that are no probabilities.

    The square root is a power allocation (Bankier, The American Statistician 42, 1988) between verdicts in proportion to
    n, which make the precision of all labels most certain, and as many for each predicate.
    """
    given = np.asarray(probabilities, np.float64)
    if given.shape != (len(predicates),) or not ((given >= 0) & (given <= 1)).all():
        raise ValueError("a probability between 0 and 1 is needed for each label")
    uncertain = _entropy(given)
    found = np.zeros_like(uncertain)
    names, which = np.unique(np.asarray(predicates, dtype=object).astype(str), return_inverse=True)
    for place, name in enumerate(names):
        own = np.flatnonzero(which == place)
        ranked = own[np.argsort(-uncertain[own], kind="stable")]
        already = (judged or {}).get(str(name), 0)
        found[ranked] = uncertain[ranked] * np.sqrt(len(own)) / (1 + already + np.arange(len(own)))
    return found


def _entropy(probabilities: Numbers) -> Numbers:
    """Entropy of a yes-or-no question in bits."""
    inside = np.clip(probabilities, 1e-12, 1 - 1e-12)
    found: Numbers = -(inside * np.log2(inside) + (1 - inside) * np.log2(1 - inside))
    return np.where((probabilities <= 0) | (probabilities >= 1), 0.0, found)
