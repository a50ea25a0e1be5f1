"""What an index says of all labels at once: counted by the database, and kept until the index changes."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from pipeline.labels.label_funnel import LabelFunnel
from pipeline.review.index import ReviewIndex
from pipeline.review.partition_rows import tally_of
from pipeline.review.score_audit import BinnedLabels, ScoreAudit

MOST_AN_IMAGE = 20
"""Images with this many kept labels or more are counted together."""


@dataclass(frozen=True)
class PredicateFacts:
    """The labels of one canonical predicate."""

    predicate: str
    scored: int
    kept: int
    given: int
    """How often the datasets give it."""
    precision: float | None
    """Share of the kept labels that the dataset gives, where it gives any for their image."""


@dataclass(frozen=True)
class LabelFacts:
    """Counts over all labels of an index."""

    funnel: LabelFunnel
    predicates: tuple[PredicateFacts, ...]
    """Those with the most kept labels first."""
    scores: BinnedLabels
    audits: tuple[ScoreAudit, ...]
    """One for each dataset that gives relations."""
    density: tuple[int, ...]
    """Images by their number of kept labels, from 0 to `MOST_AN_IMAGE`."""
    quarantined: frozenset[str]
    """The reasons for which stages rejected rows."""


class LabelFactsCache:
    """The facts of an index. Whoever asks after a change counts anew; the others wait for it."""

    def __init__(self, index: ReviewIndex) -> None:
        self._index = index
        self._lock = threading.Lock()
        self._held: tuple[int, LabelFacts] | None = None

    def facts(self) -> LabelFacts:
        """The facts of the index as it is."""
        with self._lock:
            generation = self._index.generation
            if self._held is None or self._held[0] != generation:
                self._held = generation, _facts_of(self._index)
            return self._held[1]


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
        f"SELECT {_DATASET}, measure, {_BINNED} FROM scores JOIN parts USING (part) WHERE correct IS NOT NULL GROUP BY ALL"
    )
    found = []
    for dataset in sorted({row["dataset"] for row in counted}):
        levels = {row["level"]: row["number"] for row in counted if row["dataset"] == dataset}
        of_set = [row for row in binned if row["dataset"] == dataset]
        measures = {
            name: BinnedLabels.of(row for row in of_set if row["measure"] == name)
            for name in ("fact", "score", "probability")
        }
        if levels["audited given"]:
            found.append(
                ScoreAudit(
                    dataset,
                    images=levels["audited images"],
                    given=levels["audited given"],
                    reachable=levels["audited reachable"],
                    proposed=levels["audited proposed"],
                    facts=measures["fact"],
                    score=measures["score"],
                    probability=measures["probability"],
                )
            )
    return tuple(found)
