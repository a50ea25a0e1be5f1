"""Verdicts on the labels of an index: written to the log at once, and found again on labels made anew."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence

import pyarrow as pa

from pipeline.labels.verdict_log import VerdictLog
from pipeline.labels.verdicts import JudgedRelation, Kind, Verdict, now
from pipeline.review.index import ReviewIndex, sql_list
from pipeline.review.labels import Label, labels_of_image

_JUDGED = pa.schema(
    [
        ("number", pa.int64()),
        ("digest", pa.string()),
        ("predicate", pa.string()),
        *((f"{end}_{side}", pa.float64()) for end in ("subject", "object") for side in "xywh"),
    ]
)
_ROUNDING = 0.0051
"""Verdicts name boxes by two decimals."""
_NEAR = " AND ".join(
    f"abs(r.{end}_{side} - j.{end}_{side}) < {_ROUNDING}" for end in ("subject", "object") for side in "xywh"
)
_REVIEWED = pa.schema([("relation", pa.int64()), ("kind", pa.string()), ("reviewer", pa.string())])


class Reviews:
    """The verdicts of a log, with the labels of an index that they are about.

    Searches read two tables in memory: `live.reviewed`, with a row for each standing verdict, and `live.reviewed_labels`,
    with the labels that have any and what searches ask of them, so that counting them never reads all labels.
    """

    def __init__(self, index: ReviewIndex, log: VerdictLog) -> None:
        self._index = index
        self.log = log
        self._lock = threading.Lock()
        self._generation = -1
        self._standing: dict[JudgedRelation, dict[str, Verdict]] = {}
        """What stood when the tables were last brought up to date."""
        self._numbers: dict[JudgedRelation, tuple[int, ...]] = {}
        with index.cursor() as cursor:
            cursor.execute("CREATE OR REPLACE TABLE live.reviewed (relation BIGINT, kind VARCHAR, reviewer VARCHAR)")
            cursor.execute(
                "CREATE OR REPLACE TABLE live.reviewed_labels AS SELECT relations.*, dataset, image_id, captions "
                "FROM relations JOIN images USING (image) LIMIT 0"
            )
        self.refresh()

    def refresh(self) -> None:
        """Find the labels of standing verdicts that are new, of other processes too, or of all when labels were made anew."""
        with self._lock:
            standing, generation = self.log.standing(), self._index.generation
            if generation != self._generation:
                with self._index.cursor() as cursor:
                    cursor.execute("DELETE FROM live.reviewed")
                    cursor.execute("DELETE FROM live.reviewed_labels")
                self._standing, self._numbers = {}, {}
            # The log replaces what stands on a relation whenever it changes, so that it need not be compared.
            changed = [
                relation
                for relation in standing.keys() | self._standing.keys()
                if standing.get(relation) is not self._standing.get(relation)
            ]
            self._place([relation for relation in changed if relation not in self._numbers])
            self._put(changed, standing)
            self._standing, self._generation = standing, generation

    def record(self, labels: Sequence[Label], verdicts: Sequence[Verdict]) -> None:
        """Write one verdict for each label. They are on disk when this returns."""
        with self._lock:
            self.log.append(verdicts)
            judged = {label.judged: label.image for label in labels}
            for relation, image in judged.items():
                if relation not in self._numbers:
                    equal = (each for each in labels_of_image(self._index, image) if each.judged == relation)
                    self._numbers[relation] = tuple(each.number for each in equal)
            standing = self.log.standing()
            self._put(judged, standing)
            for relation in judged:
                self._standing.pop(relation, None)
                if relation in standing:
                    self._standing[relation] = standing[relation]

    def of(self, labels: Sequence[Label]) -> dict[int, Mapping[str, Verdict]]:
        """Number of a label → reviewer → verdict, of the labels that have any."""
        standing = self.log.standing()
        found = {label.number: standing.get(label.judged) for label in labels}
        return {number: verdicts for number, verdicts in found.items() if verdicts}

    def _place(self, relations: Sequence[JudgedRelation]) -> None:
        """Looks up the numbers of the labels that these relations are about."""
        if not relations:
            return
        rows = [
            {"number": number, "digest": relation.image, "predicate": relation.predicate, **_sides(relation)}
            for number, relation in enumerate(relations)
        ]
        found: dict[int, list[int]] = {}
        with self._index.cursor() as cursor:
            cursor.register("judged", pa.Table.from_pylist(rows, schema=_JUDGED))
            sql = (
                "SELECT j.number, r.relation FROM judged j JOIN images i USING (digest) "
                f"JOIN relations r ON r.image = i.image AND r.predicate = j.predicate AND {_NEAR}"
            )
            for number, label in cursor.execute(sql).fetchall():
                found.setdefault(number, []).append(label)
            cursor.unregister("judged")
        for number, relation in enumerate(relations):
            self._numbers[relation] = tuple(found.get(number, ()))

    def _put(
        self, relations: Collection[JudgedRelation], standing: Mapping[JudgedRelation, Mapping[str, Verdict]]
    ) -> None:
        """Makes both tables say of these relations what stands on them."""
        rows = [
            {"relation": number, "kind": verdict.kind, "reviewer": name}
            for relation in relations
            for number in self._numbers.get(relation, ())
            for name, verdict in standing.get(relation, {}).items()
        ]
        touched = sorted({number for relation in relations for number in self._numbers.get(relation, ())})
        if not touched:
            return
        with self._index.cursor() as cursor:
            cursor.begin()
            for table in ("live.reviewed", "live.reviewed_labels"):
                cursor.execute(f"DELETE FROM {table} WHERE relation IN {sql_list(touched)}")
            cursor.register("said", pa.Table.from_pylist(rows, schema=_REVIEWED))
            cursor.execute("INSERT INTO live.reviewed SELECT * FROM said")
            cursor.unregister("said")
            if rows:
                cursor.execute(
                    "INSERT INTO live.reviewed_labels SELECT r.*, dataset, image_id, captions FROM relations r "
                    f"JOIN images USING (image) WHERE relation IN {sql_list({int(row['relation']) for row in rows})}"
                )
            cursor.commit()


def verdict_on(label: Label, kind: Kind, reviewer: str, run: str, **facts: object) -> Verdict:
    """A verdict on a label, made now. `facts`: corrections, seconds and queue."""
    return Verdict(
        relation=label.judged,
        kind=kind,
        reviewer=reviewer,
        time=now(),
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
