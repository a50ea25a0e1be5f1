"""Compares the labels of two runs by image, boxes and predicate."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.labels.labelled_partitions import partition_artifacts
from pipeline.report.view import RunView
from pipeline.review.index import ReviewIndex, run_with
from pipeline.review.partition_rows import partition_rows

MOST_DIFFERENT = 12
"""Predicates that the comparison names."""
_BOTH = "FROM relations r LEFT JOIN against a USING (relation)"
_KEPT_HERE = "count(*) FILTER (r.kept AND NOT coalesce(a.kept, false))"
_KEPT_THERE = "count(*) FILTER (NOT r.kept AND a.kept)"
_FACT = "r.image, r.subject, r.object, r.predicate"
_FIRST = f"row_number() OVER (PARTITION BY {_FACT} ORDER BY r.kept DESC, r.relation) = 1"
"""Of labels that say the same in other words, one stands for all: that which is kept here, if any."""
_ENDS = [f"{end}_{side}" for end in ("subject", "object") for side in "xywh"]


class RunComparison:
    """The labels that an index shares with another run, in the index's table `against`; empty without another run."""

    def __init__(self, index: ReviewIndex, other: RunView | None) -> None:
        self._index = index
        self.other = other
        self._compared = 0
        with index.cursor() as cursor:
            cursor.execute("CREATE OR REPLACE TABLE against (relation BIGINT, kept BOOLEAN)")
        self.refresh()

    def refresh(self) -> None:
        """Compare again, one partition at a time, so that memory holds the labels of only one."""
        if self.other is None:
            return
        with self._index.cursor() as cursor:
            cursor.begin()
            cursor.execute("DELETE FROM against")
            for found in partition_artifacts(self.other.run).values():
                if found.images is None or found.tagged is None:
                    continue
                rows = partition_rows(0, found, self.other.choice)
                matched = " AND ".join(f"r.{side} = t.{side}" for side in ("predicate", *_ENDS))
                run_with(
                    cursor,
                    f"INSERT INTO against SELECT r.relation, bool_or(t.kept) AND {_FIRST} FROM theirs t "
                    f"JOIN images i USING (dataset, image_id) JOIN relations r ON r.image = i.image AND {matched} "
                    f"GROUP BY r.relation, r.kept, {_FACT}",
                    theirs=_with_images(rows["relations"], rows["images"]),
                )
            cursor.commit()
        self._compared += 1

    def summary(self) -> dict[str, Any] | None:
        """Label counts: in both runs, kept in both, kept in this or the other only. None without another run."""
        if self.other is None:
            return None
        found = self._count(
            "SELECT count(*) FILTER (a.relation IS NOT NULL) AS both, "
            "count(*) FILTER (r.kept AND a.kept) AS kept_in_both, "
            f"{_KEPT_HERE} AS kept_here, {_KEPT_THERE} AS kept_there {_BOTH}"
        )
        return {"other": self.other.run.name, **found[0]}

    def differences(self) -> list[dict[str, Any]]:
        """Canonical predicates by how many labels only one of the runs keeps, largest number first."""
        if self.other is None:
            return []
        return self._count(
            f"SELECT predicate, {_KEPT_HERE} AS kept_here, {_KEPT_THERE} AS kept_there {_BOTH} GROUP BY predicate "
            f"HAVING kept_here + kept_there > 0 ORDER BY kept_here + kept_there DESC, predicate LIMIT {MOST_DIFFERENT}"
        )

    def _count(self, sql: str) -> list[dict[str, Any]]:
        """The rows of a query over all labels, until they are compared again."""
        return self._index.once(f"{self._compared} {sql}", lambda: self._index.rows(sql))


def _with_images(relations: pa.Table, images: pa.Table) -> pa.Table:
    """The labels with the dataset and id of their images."""
    rows = np.asarray(relations["image"])
    described = images.select(["dataset", "image_id"]).take(pa.array(rows))
    return relations.append_column("dataset", described["dataset"]).append_column("image_id", described["image_id"])
