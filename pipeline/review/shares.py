"""Each reviewer's share of the images, in a table that searches join, and how far everyone is with the audit."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from pipeline.labels.team import Team, read_team, write_team
from pipeline.labels.verdicts import ADJUDICATION, CLASS
from pipeline.review.index import LIVE, ReviewIndex

NO_SEAT = -1
"""Seat of those who are not in the team. They have no share, and settle what the others disagree on."""
AGAIN = 5
"""Each member is asked one in so many labels that adjudication has settled, among those of their audit."""


@dataclass(frozen=True)
class Progress:
    """One reviewer's share of the audit. `name` is "" for a free seat."""

    name: str
    labels: int
    judged: int


class Shares:
    """The shares of a team in an index. Without a team, every reviewer judges everything."""

    def __init__(self, index: ReviewIndex, verdicts: Path) -> None:
        self._index, self._verdicts = index, verdicts
        self._lock = threading.Lock()
        self.team = read_team(verdicts)
        """None without a team."""
        self.refresh()

    def refresh(self) -> None:
        """Share out the images again after the run has changed."""
        team = self.team or Team()
        images = self._index.rows("SELECT image, digest FROM images")
        places = [(row["image"], seat) for row in images for seat in team.seats(row["digest"] or "")]
        table = pa.table({"image": [image for image, _ in places], "seat": [seat for _, seat in places]})
        with self._index.cursor() as cursor:
            cursor.register("placed", table.cast(pa.schema([("image", pa.int64()), ("seat", pa.int32())])))
            cursor.execute(f"CREATE OR REPLACE TABLE {LIVE}.shares AS SELECT * FROM placed")
            cursor.execute(
                f"CREATE OR REPLACE VIEW {LIVE}.honeypots AS SELECT DISTINCT relation, seat FROM {LIVE}.reviewed, (SELECT "
                f"DISTINCT seat FROM {LIVE}.shares) WHERE queue = '{ADJUDICATION}' AND hash(relation, seat) % {AGAIN} = 0"
            )
            cursor.unregister("placed")

    def seat(self, name: str) -> int:
        """A reviewer's seat. Who comes while one is free takes it, for good."""
        if self.team is None:
            return 0
        with self._lock:
            if self.team.seat(name) is None:
                # Another run's server may have seated somebody since.
                self.team = (read_team(self._verdicts) or self.team).joined(name)
                if self.team.seat(name) is not None:
                    write_team(self._verdicts, self.team)
            seat = self.team.seat(name)
        return NO_SEAT if seat is None else seat

    def progress(self, viewer: str) -> list[Progress]:
        """The audit of each seat's owner; of the viewer alone where there is no team."""
        team = self.team or Team(members=(viewer,))
        names = [*team.members, *[""] * (team.size - len(team.members))]
        counted = self._index.rows(
            "WITH first AS (SELECT relation, image FROM relations JOIN audit USING (relation) WHERE audit.place < $most), "
            f"asked AS (SELECT relation, seat FROM first JOIN {LIVE}.shares USING (image) UNION "
            f"SELECT relation, seat FROM first JOIN {LIVE}.honeypots USING (relation)) "
            "SELECT seat, count(*) AS labels, count(said.relation) AS judged FROM asked LEFT JOIN (SELECT DISTINCT relation, "
            f"reviewer FROM {LIVE}.reviewed WHERE queue <> '{CLASS}') AS said ON said.relation = asked.relation "
            "AND said.reviewer = list_extract($names::VARCHAR[], seat + 1) GROUP BY seat",
            {"names": names, "most": team.labels},
        )
        found = {row["seat"]: (row["labels"], row["judged"]) for row in counted}
        return [Progress(name, *found.get(seat, (0, 0))) for seat, name in enumerate(names)]
