"""The random audit on the page: each reviewer's share, its order, and the precision that follows from verdicts."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

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
from pipeline.labels.team import Team, read_team, write_team
from pipeline.labels.verdict_summary import audited
from pipeline.labels.verdicts import ADJUDICATION, CLASS
from pipeline.review.index import LIVE, ReviewIndex, run_with
from pipeline.review.labels import labels_of
from pipeline.review.reviews import Reviews

NO_SEAT = -1
"""Seat of those who are not in the team. They have no share, and settle what the others disagree on."""
AGAIN = 5
"""Each member is asked again about one in this many labels of their audit that adjudication has settled."""


@dataclass(frozen=True)
class ReviewerProgress:
    """One reviewer's share of the audit. `name` is "" for a free seat."""

    name: str
    labels: int
    judged: int


class TeamShares:
    """The shares of a team in an index. Without a team, every reviewer judges everything.

    `read_only`: nobody takes a seat. `team`: it replaces the one that the folder of verdicts keeps.
    """

    def __init__(self, index: ReviewIndex, verdicts: Path, read_only: bool = False, team: Team | None = None) -> None:
        self._index, self._verdicts, self._read_only = index, verdicts, read_only
        self._lock = threading.Lock()
        if team is not None:
            write_team(verdicts, team)
        self.team = read_team(verdicts)
        """None without a team."""
        self.refresh()

    def refresh(self) -> None:
        """Share out the images again after the run has changed."""
        with self._index.cursor() as cursor:
            if self.team is None:
                cursor.execute(f"CREATE OR REPLACE TABLE {LIVE}.shares AS SELECT image, 0 AS seat FROM images")
            else:
                images = self._index.table("SELECT image, digest FROM images")
                seats = [self.team.seats(digest or "") for digest in images["digest"].to_pylist()]
                image = np.repeat(images["image"].to_numpy(), [len(each) for each in seats])
                placed = pa.table({"image": image, "seat": pa.array(chain.from_iterable(seats), pa.int32())})
                run_with(cursor, f"CREATE OR REPLACE TABLE {LIVE}.shares AS SELECT * FROM placed", placed=placed)
            cursor.execute(
                f"CREATE OR REPLACE VIEW {LIVE}.honeypots AS SELECT DISTINCT relation, seat FROM {LIVE}.reviewed, "
                f"(SELECT DISTINCT seat FROM {LIVE}.shares) WHERE queue = '{ADJUDICATION}' AND kind <> 'unsure' "
                f"AND hash(relation, seat) % {AGAIN} = 0"
            )

    def seat(self, name: str) -> int:
        """A reviewer's seat. A reviewer who comes while one is free takes it for good."""
        if self.team is None:
            return 0
        with self._lock:
            if self.team.seat(name) is None:
                # Another run's server may have seated somebody since.
                found = read_team(self._verdicts) or self.team
                self.team = found if self._read_only else found.joined(name)
                if self.team is not found:
                    write_team(self._verdicts, self.team)
            seat = self.team.seat(name)
        return NO_SEAT if seat is None else seat

    def progress(self, viewer: str) -> list[ReviewerProgress]:
        """The audit of each seat's owner; of the viewer alone where there is no team."""
        team = self.team or Team(members=(viewer,))
        names = [*team.members, *[""] * (team.size - len(team.members))]
        counted = self._index.rows(
            "WITH first AS (SELECT relation, image FROM relations JOIN audit USING (relation) WHERE audit.place "
            f"< $most), asked AS (SELECT relation, seat FROM first JOIN {LIVE}.shares USING (image) UNION "
            f"SELECT relation, seat FROM first JOIN {LIVE}.honeypots USING (relation)) "
            "SELECT seat, count(*) AS labels, count(said.relation) AS judged FROM asked LEFT JOIN (SELECT DISTINCT "
            f"relation, reviewer FROM {LIVE}.reviewed WHERE queue <> '{CLASS}') AS said ON said.relation "
            "= asked.relation AND said.reviewer = list_extract($names::VARCHAR[], seat + 1) GROUP BY seat",
            {"names": names, "most": team.labels},
        )
        found = {row["seat"]: (row["labels"], row["judged"]) for row in counted}
        return [ReviewerProgress(name, *found.get(seat, (0, 0))) for seat, name in enumerate(names)]


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

    def __init__(self, index: ReviewIndex, reviews: Reviews, shares: TeamShares) -> None:
        self._index = index
        self._reviews = reviews
        self._shares = shares
        self.refresh()

    def refresh(self) -> None:
        """Draw again after labels changed. Labels that were computed again keep their place."""
        self._population = _draw(self._index, self._shares.team)

    def precision(self) -> AuditPrecision:
        """Precision of the kept labels according to the verdicts so far, with its 95 % interval."""
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
    # Labels of copies of an image have one number and share their verdicts.
    found = index.table(
        "SELECT DISTINCT ON (number) relation, number, predicate, confidence, opinion, digest FROM (SELECT * FROM "
        f"relations WHERE number IS NOT NULL ORDER BY number, relation LIMIT {MOST_AUDITED}) JOIN (SELECT image, "
        "digest FROM images) USING (image) ORDER BY number, relation"
    )
    numbers = found["number"].to_numpy()
    relations = found["relation"].to_numpy()
    predicates = found["predicate"].to_pylist()
    strata = AuditStrata.of(predicates, found["confidence"].to_numpy(), found["opinion"].to_pylist())
    seats = [0 if team is None else team.seats(digest)[0] for digest in found["digest"].to_pylist()]
    order = audit_order(strata, numbers)
    with index.cursor() as cursor:
        placed = pa.table({"relation": relations[order], "place": np.arange(len(order), dtype=np.int32)})
        run_with(cursor, "CREATE OR REPLACE TABLE audit AS SELECT * FROM placed", placed=placed)
    return _Population(relations, strata, numbers, predicates, np.array(seats, np.int64))
