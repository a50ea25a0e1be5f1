"""Counts over all labels of an index, made by the database."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.labels.label_funnel import LabelFunnel
from pipeline.review.index import ReviewIndex
from pipeline.review.partition_rows import tally_of
from pipeline.review.score_audit import BinnedLabels, ScoreAudit

MOST_AN_IMAGE = 20
"""Images with at least this many kept labels are counted together."""


@dataclass(frozen=True)
class PredicateFacts:
    """The labels of one canonical predicate."""

    predicate: str
    scored: int
    kept: int
    given: int
    """Number of ground-truth relations with it."""
    precision: float | None
    """Share of the kept labels that are in the ground truth, on images that have any."""


@dataclass(frozen=True)
class LabelFacts:
    """Counts over all labels of an index."""

    funnel: LabelFunnel
    predicates: tuple[PredicateFacts, ...]
    """In descending order of kept labels."""
    scores: BinnedLabels
    audits: tuple[ScoreAudit, ...]
    """One for each dataset with ground-truth relations."""
    density: tuple[int, ...]
    """Number of images with 0, 1, ..., `MOST_AN_IMAGE` kept labels."""
    quarantined: frozenset[str]
    """The reasons why stages rejected rows."""


def label_facts(index: ReviewIndex) -> LabelFacts:
    """The facts of the index's present rows."""
    return index.once("facts", lambda: _facts_of(index))


def _facts_of(index: ReviewIndex) -> LabelFacts:
    tally = tally_of(index.rows("SELECT level, name, sum(number)::BIGINT AS number FROM counts GROUP BY ALL"))
    given = {each.predicate: each.given for each in tally.predicates()}
    predicates = [
        PredicateFacts(
            row["predicate"], row["scored"], row["kept"], given.get(row["predicate"], 0),
            row["correct"] / row["judged"] if row["judged"] else None,
        )
        for row in index.rows("SELECT * FROM predicates ORDER BY kept DESC, scored DESC, predicate")
    ]  # fmt: skip
    density = [0] * (MOST_AN_IMAGE + 1)
    sql = "SELECT least(kept, $most) AS kept, count(*) AS images FROM images GROUP BY ALL"
    for row in index.rows(sql, {"most": MOST_AN_IMAGE}):
        density[row["kept"]] += row["images"]
    reasons = index.rows("SELECT DISTINCT reason FROM quarantined")
    scores = index.rows(f"SELECT {_BINNED} FROM scores WHERE measure = 'score' GROUP BY ALL")
    return LabelFacts(
        funnel=tally.funnel(),
        predicates=tuple(predicates),
        scores=BinnedLabels.of(scores),
        audits=_audits(index),
        density=tuple(density),
        quarantined=frozenset(row["reason"] for row in reasons),
    )


_BINNED = "bin, kept, correct, sum(number)::BIGINT AS number, sum(total) AS total"
_DATASET = "split_part(partition, '/', 1) AS dataset"


def _audits(index: ReviewIndex) -> tuple[ScoreAudit, ...]:
    counted = index.rows(
        f"SELECT {_DATASET}, level, sum(number)::BIGINT AS number FROM counts JOIN parts USING (part) "
        "WHERE level LIKE 'audited %' GROUP BY ALL"
    )
    binned = index.rows(
        f"SELECT {_DATASET}, measure, {_BINNED} FROM scores JOIN parts USING (part) "
        "WHERE correct IS NOT NULL GROUP BY ALL"
    )
    found = []
    for dataset in sorted({row["dataset"] for row in counted}):
        levels = {row["level"]: row["number"] for row in counted if row["dataset"] == dataset}
        of_set = [row for row in binned if row["dataset"] == dataset]
        facts, score, probability = (
            BinnedLabels.of(row for row in of_set if row["measure"] == name)
            for name in ("fact", "score", "probability")
        )
        if levels["audited given"]:
            counts = {name: levels[f"audited {name}"] for name in ("images", "given", "reachable", "proposed")}
            found.append(ScoreAudit(dataset, **counts, facts=facts, score=score, probability=probability))
    return tuple(found)
