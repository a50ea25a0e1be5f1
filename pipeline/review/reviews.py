"""Verdicts on the labels of an index: written to the log at once, and found again on labels made anew."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import pyarrow as pa

from pipeline.labels.verdict_log import VerdictLog
from pipeline.labels.verdicts import JudgedRelation, Kind, Verdict
from pipeline.review.index import ReviewIndex
from pipeline.review.labels import Label

_STANDING = pa.schema(
    [
        ("digest", pa.string()),
        *((f"{end}_{side}", pa.float64()) for end in ("subject", "object") for side in "xywh"),
        ("predicate", pa.string()),
        ("kind", pa.string()),
        ("reviewer", pa.string()),
    ]
)
_ROUNDING = 0.0051
"""Verdicts name boxes by two decimals."""


class Reviews:
    """The verdicts of a log, with the labels of an index that they are about."""

    def __init__(self, index: ReviewIndex, log: VerdictLog) -> None:
        self._index = index
        self.log = log
        self._lock = threading.Lock()
        with index.cursor() as cursor:
            cursor.execute("CREATE OR REPLACE TABLE reviewed (relation BIGINT, kind VARCHAR, reviewer VARCHAR)")
        self.refresh()

    def refresh(self) -> None:
        """Find the labels of all standing verdicts: those of other processes, and those on labels that were made anew."""
        with self._lock:
            rows = [
                {
                    "digest": relation.image,
                    **_sides(relation),
                    "predicate": relation.predicate,
                    "kind": v.kind,
                    "reviewer": name,
                }
                for relation, verdicts in self.log.standing().items()
                for name, v in verdicts.items()
            ]
            near = " AND ".join(
                f"abs(r.{end}_{side} - s.{end}_{side}) < {_ROUNDING}"
                for end in ("subject", "object")
                for side in "xywh"
            )
            with self._index.cursor() as cursor:
                cursor.begin()
                cursor.register("standing", pa.Table.from_pylist(rows, schema=_STANDING))
                cursor.execute("DELETE FROM reviewed")
                cursor.execute(
                    "INSERT INTO reviewed SELECT r.relation, s.kind, s.reviewer FROM standing s JOIN images i USING (digest) "
                    f"JOIN relations r ON r.image = i.image AND r.predicate = s.predicate AND {near}"
                )
                cursor.unregister("standing")
                cursor.commit()

    def record(self, labels: Sequence[Label], verdicts: Sequence[Verdict]) -> None:
        """Write one verdict for each label. They are on disk when this returns."""
        with self._lock:
            self.log.append(verdicts)
            with self._index.cursor() as cursor:
                cursor.begin()
                for label, verdict in zip(labels, verdicts, strict=True):
                    cursor.execute(
                        "DELETE FROM reviewed WHERE relation = ? AND reviewer = ?", [label.number, verdict.reviewer]
                    )
                    standing = self.log.standing().get(label.judged, {}).get(verdict.reviewer)
                    if standing is not None:
                        row = [label.number, standing.kind, verdict.reviewer]
                        cursor.execute("INSERT INTO reviewed VALUES (?, ?, ?)", row)
                cursor.commit()

    def of(self, labels: Sequence[Label]) -> dict[int, Mapping[str, Verdict]]:
        """Number of a label → reviewer → verdict, of the labels that have any."""
        standing = self.log.standing()
        found = {label.number: standing.get(label.judged) for label in labels}
        return {number: verdicts for number, verdicts in found.items() if verdicts}


def verdict_on(label: Label, kind: Kind, reviewer: str, run: str, **facts: object) -> Verdict:
    """A verdict on a label, made now. `facts`: corrections, seconds and queue."""
    return Verdict(
        relation=label.judged,
        kind=kind,
        reviewer=reviewer,
        time=datetime.now(UTC).isoformat(timespec="milliseconds"),
        subject_category=label.subject_category,
        object_category=label.object_category,
        run=run,
        score=round(label.score, 6),
        dataset=label.dataset,
        image_id=label.image_id,
        **facts,  # type: ignore[arg-type]
    )


def _sides(relation: JudgedRelation) -> dict[str, float]:
    boxes = {"subject": relation.subject, "object": relation.object}
    return {f"{end}_{side}": value for end, box in boxes.items() for side, value in zip("xywh", box, strict=True)}
