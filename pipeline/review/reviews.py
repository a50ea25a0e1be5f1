"""Verdicts on the labels of an index: logged at once, and matched again when labels are recomputed."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence

import pyarrow as pa

from pipeline.labels.verdict_log import VerdictLog
from pipeline.labels.verdicts import JudgedRelation, Kind, StandingVerdicts, Verdict, now
from pipeline.review.index import LIVE, ReviewIndex, rows_with, run_with, sql_list
from pipeline.review.labels import Label, labels_of_images
from pipeline.review.partition_rows import DOUBLE, SIDES
from storage.tables import LONG, TEXT

_JUDGED = pa.schema({
    "number": LONG, "digest": TEXT, "predicate": TEXT, **dict.fromkeys(SIDES, DOUBLE),
})  # fmt: skip
_ROUNDING = 0.0051
"""Verdicts have box coordinates with two decimals: a side may be off by .005, and by a rounding in single precision."""
_NEAR = " AND ".join(f"abs(r.{side} - j.{side}) < {_ROUNDING}" for side in SIDES)
_REVIEWED = pa.schema({
    "relation": LONG, **dict.fromkeys(("kind", "reviewer", "queue", "answer"), TEXT), "seconds": DOUBLE,
})  # fmt: skip
"""`answer`: the verdict with its correction, by which reviewers agree or not."""


class Reviews:
    """The verdicts of a log, matched with the labels of an index.

    Searches read two tables in memory: `live.reviewed` has a row for each standing verdict, and `live.reviewed_labels`
    the judged labels with the columns that searches need, so that counting them never reads all labels. Both are
    updated when a query next names one of them, so recording a verdict does not wait for it.
    """

    def __init__(self, index: ReviewIndex, log: VerdictLog) -> None:
        self._index = index
        self.log = log
        self._lock = threading.Lock()
        """Held while the tables change."""
        self._recording = threading.Lock()
        self._unsettled: dict[JudgedRelation, int] = {}
        """Relation → number of its image, for verdicts that the tables don't have yet."""
        self._generation = -1
        self._standing: StandingVerdicts = {}
        """The standing verdicts at the tables' last update."""
        self._places: dict[JudgedRelation, tuple[tuple[int, int], ...]] = {}
        """Relation → (label number, image number) of each matching label."""
        self._copies: dict[str, tuple[int, ...]] = {}
        """Digest of several images → their numbers."""
        with index.cursor() as cursor:
            sql = f"CREATE OR REPLACE TABLE {LIVE}.reviewed AS SELECT * FROM none"
            run_with(cursor, sql, none=_REVIEWED.empty_table())
            cursor.execute(
                f"CREATE OR REPLACE TABLE {LIVE}.reviewed_labels AS SELECT relations.*, dataset, image_id, captions "
                "FROM relations JOIN images USING (image) LIMIT 0"
            )
        self.refresh()
        index.settle = self.settle

    def refresh(self) -> None:
        """Match new verdicts, including other processes', with labels; after labels were recomputed, match all."""
        self.settle()
        with self._lock:
            standing, generation = self.log.standing(), self._index.generation
            if generation != self._generation:
                with self._index.cursor() as cursor:
                    cursor.execute(f"DELETE FROM {LIVE}.reviewed")
                    cursor.execute(f"DELETE FROM {LIVE}.reviewed_labels")
                self._standing, self._places = {}, {}
                copies = self._index.rows(
                    "SELECT digest, list(image) AS images FROM images WHERE digest <> '' GROUP BY digest HAVING "
                    "count(*) > 1"
                )
                self._copies = {row["digest"]: tuple(row["images"]) for row in copies}
            # The log replaces the verdicts on a relation whenever they change, so comparing identities is enough.
            changed = [
                relation
                for relation in standing.keys() | self._standing.keys()
                if standing.get(relation) is not self._standing.get(relation)
            ]
            self._place([relation for relation in changed if relation not in self._places])
            self._put(changed, standing)
            self._standing, self._generation = standing, generation

    def record(self, labels: Sequence[Label], verdicts: Sequence[Verdict]) -> None:
        """Write one verdict for each label. All are on disk when this returns."""
        self.log.append(verdicts)
        with self._recording:
            self._unsettled |= {label.judged: label.image for label in labels}

    def settle(self) -> None:
        """Update the tables with the verdicts recorded since their last use."""
        with self._lock:
            with self._recording:
                judged, self._unsettled = self._unsettled, {}
            new = {relation: image for relation, image in judged.items() if relation not in self._places}
            images = {each for relation, image in new.items() for each in self._copies.get(relation.image, (image,))}
            for label in labels_of_images(self._index, sorted(images)):
                if label.judged in new:
                    self._places[label.judged] = (*self._places.get(label.judged, ()), (label.number, label.image))
            standing = self.log.standing_on(judged)
            self._put(judged, standing)
            for relation in judged:
                # One whose verdicts were all undone is not in `standing`.
                self._standing.pop(relation, None)
            self._standing |= standing

    def of(self, labels: Sequence[Label]) -> dict[int, Mapping[str, Verdict]]:
        """Number of a label → reviewer → verdict, for labels that have any."""
        judged = {label.number: label.judged for label in labels if label.digest}
        standing = self.log.standing_on(judged.values())
        found = {number: standing.get(relation) for number, relation in judged.items()}
        return {number: verdicts for number, verdicts in found.items() if verdicts}

    def _place(self, relations: Sequence[JudgedRelation]) -> None:
        """Looks up the labels that these relations match."""
        if not relations:
            return
        rows = [
            {"number": number, "digest": relation.image, "predicate": relation.predicate}
            | dict(zip(SIDES, (*relation.subject, *relation.object), strict=True))
            for number, relation in enumerate(relations)
        ]
        found: dict[int, list[tuple[int, int]]] = {}
        with self._index.cursor() as cursor:
            sql = (
                "SELECT j.number, r.relation, r.image FROM judged j JOIN images i USING (digest) "
                f"JOIN relations r ON r.image = i.image AND r.predicate = j.predicate AND {_NEAR}"
            )
            for number, *place in run_with(cursor, sql, judged=pa.Table.from_pylist(rows, schema=_JUDGED)):
                found.setdefault(number, []).append((place[0], place[1]))
        for number, relation in enumerate(relations):
            self._places[relation] = tuple(found.get(number, ()))

    def _put(
        self, relations: Collection[JudgedRelation], standing: Mapping[JudgedRelation, Mapping[str, Verdict]]
    ) -> None:
        """Updates the rows of these relations in both tables to the standing verdicts."""
        rows = [
            {
                "relation": number, "kind": verdict.kind, "reviewer": name, "queue": verdict.queue or "",
                "seconds": verdict.seconds,
                "answer": f"{verdict.kind} {verdict.corrected}",
            }
            for relation in relations
            for number, _ in self._places.get(relation, ())
            for name, verdict in standing.get(relation, {}).items()
        ]  # fmt: skip
        touched = sorted({number for relation in relations for number, _ in self._places.get(relation, ())})
        if not touched:
            return
        with self._index.transaction() as cursor:
            for table in (f"{LIVE}.reviewed", f"{LIVE}.reviewed_labels"):
                cursor.execute(f"DELETE FROM {table} WHERE relation IN {sql_list(touched)}")
            said = pa.Table.from_pylist(rows, schema=_REVIEWED)
            run_with(cursor, f"INSERT INTO {LIVE}.reviewed SELECT * FROM said", said=said)
            if rows:
                places = {p for relation in relations if relation in standing for p in self._places.get(relation, ())}
                labels = rows_with("relations", "*", "relation", sorted(number for number, _ in places))
                columns = "image, dataset, image_id, captions"
                images = rows_with("images", columns, "image", sorted({image for _, image in places}))
                cursor.execute(
                    f"INSERT INTO {LIVE}.reviewed_labels SELECT r.*, dataset, image_id, captions FROM ({labels}) r "
                    f"JOIN ({images}) USING (image)"
                )


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
