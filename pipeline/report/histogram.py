"""The predicates of a run as bars."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pipeline.labels.label_funnel import PredicateCount

MOST_BARS = 24


class Bar(NamedTuple):
    """One predicate. `kept_share` and `given_share` are lengths in [0, 1] of the longest bar."""

    predicate: str
    kept: int
    given: int
    kept_share: float
    given_share: float


def predicate_bars(predicates: Sequence[PredicateCount]) -> list[Bar]:
    """Bars of the most frequent predicates; the rest goes together into the last one."""
    shown = list(predicates[:MOST_BARS])
    rest = predicates[MOST_BARS:]
    if rest:
        name = f"{len(rest)} others"
        shown.append(PredicateCount(name, sum(p.kept for p in rest), sum(p.given for p in rest)))
    longest = max((max(p.kept, p.given) for p in shown), default=0) or 1
    return [Bar(p.predicate, p.kept, p.given, p.kept / longest, p.given / longest) for p in shown]
