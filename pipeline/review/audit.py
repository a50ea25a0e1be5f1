"""The random audit on the page: which labels to judge in which order, and the precision that follows from verdicts."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipeline.labels.audit_sample import (
    MOST_AUDITED,
    UNJUDGED,
    AuditPrecision,
    AuditStrata,
    Numbers,
    audit_order,
    audit_precision,
)
from pipeline.labels.team import Team
from pipeline.labels.verdict_summary import audited
from pipeline.review.index import ReviewIndex
from pipeline.review.labels import labels_of
from pipeline.review.reviews import Reviews
from pipeline.review.shares import Shares


@dataclass(frozen=True)
class _Population:
    """The labels in an audit, in the order of their numbers."""

    relations: np.ndarray[tuple[int], np.dtype[np.int64]]
    strata: AuditStrata
    numbers: Numbers
    predicates: list[str]
    seats: np.ndarray[tuple[int], np.dtype[np.int64]]
    """Whose share each label is, the first of two in the overlap."""


class Audit:
    """The audit of an index. The index's table `audit` holds its order, which searches can follow."""

    def __init__(self, index: ReviewIndex, reviews: Reviews, shares: Shares) -> None:
        self._index = index
        self._reviews = reviews
        self._shares = shares
        self._lock = threading.Lock()
        self._population = _draw(index, shares.team)

    def refresh(self) -> None:
        """Draw again after labels changed. Labels that were computed again keep their place."""
        population = _draw(self._index, self._shares.team)
        with self._lock:
            self._population = population

    def precision(self) -> AuditPrecision:
        """Precision of the kept labels according to the verdicts so far, with its 95 % interval."""
        with self._lock:
            population = self._population
        outcomes = np.full(len(population.relations), UNJUDGED, np.int8)
        blind = np.zeros(len(outcomes), bool)
        place = {number: at for at, number in enumerate(population.relations.tolist())}
        judged = self._index.rows("SELECT DISTINCT relation FROM live.reviewed SEMI JOIN audit USING (relation)")
        labels = labels_of(self._index, [row["relation"] for row in judged])
        for number, said in self._reviews.of(labels).items():
            if number in place:
                outcomes[place[number]], blind[place[number]] = audited(said)
        return audit_precision(
            population.strata, population.numbers, outcomes, population.seats, population.predicates, blind
        )


def _draw(index: ReviewIndex, team: Team | None) -> _Population:
    found = index.table(
        "SELECT relation, number, predicate, confidence, opinion, digest FROM (SELECT * FROM relations WHERE number IS NOT NULL "
        f"ORDER BY number LIMIT {MOST_AUDITED}) JOIN (SELECT image, digest FROM images) USING (image) ORDER BY number"
    )
    numbers = found["number"].to_numpy()
    relations = found["relation"].to_numpy()
    predicates = found["predicate"].to_pylist()
    strata = AuditStrata.of(predicates, found["confidence"].to_numpy(), found["opinion"].to_pylist())
    seats = [0 if team is None else team.seats(digest)[0] for digest in found["digest"].to_pylist()]
    order = audit_order(strata, numbers)
    with index.cursor() as cursor:
        cursor.begin()
        cursor.execute("CREATE OR REPLACE TABLE audit (relation BIGINT, place INTEGER)")
        placed = pa.table({"relation": relations[order], "place": np.arange(len(order), dtype=np.int32)})
        cursor.register("placed", placed)
        cursor.execute("INSERT INTO audit SELECT relation, place FROM placed")
        cursor.unregister("placed")
        cursor.commit()
    return _Population(relations, strata, numbers, predicates, np.array(seats, np.int64))
