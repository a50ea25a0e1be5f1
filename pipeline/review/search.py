"""A search for labels or images: its conditions and order, in a URL and as SQL."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from pydantic import BaseModel, ConfigDict, Field

from pipeline.labels.verdicts import ADJUDICATION, AUDIT, CLASS
from pipeline.review.index import LIVE

Order = Literal[
    "score", "lowest", "uncertain", "informative", "disagreement", "verifier", "rare", "random", "image", "audit",
    "adjudication", "check",
]  # fmt: skip
LONGEST_NAME = 200
"""Maximum number of characters of a name or text to search for."""
_Name = Annotated[str, Field(max_length=LONGEST_NAME)]
_Share = Annotated[float, Field(ge=0.0, le=1.0)]

_SCORE = "round(score::DOUBLE, 6)"
# DuckDB refuses the logarithm of 0.
_PROBABILITY = "least(greatest(probability, 1e-6), 1 - 1e-6)"
_ENTROPY = f"-({_PROBABILITY} * log2({_PROBABILITY}) + (1 - {_PROBABILITY}) * log2(1 - {_PROBABILITY}))"
_BY_PAIR = "image, subject, object, relation"
ORDERS: dict[Order, tuple[str, str]] = {
    "score": ("highest score first", "score DESC, relation"),
    "lowest": ("lowest score first", "score, relation"),
    "uncertain": ("most uncertain first", "abs(probability - 0.5), relation"),
    "informative": (
        "most informative first", f"{_ENTROPY} * sqrt(frequency) / (1 + judged + rank) DESC, relation",
    ),
    "disagreement": (
        "greatest disagreement first", "CASE WHEN proposed THEN 1 - probability ELSE probability END DESC, relation",
    ),
    "verifier": (
        "greatest disagreement with the verifier first", "abs(opinion - probability) DESC NULLS LAST, relation",
    ),
    "rare": ("rarest predicate first", "frequency, score DESC, relation"),
    "random": ("random", "hash(relation), relation"),
    "image": ("by image and pair", _BY_PAIR),
    "audit": ("random audit", "audit_place"),
    "adjudication": ("disagreements to settle", _BY_PAIR),
    "check": ("checks of accepted classes", _BY_PAIR),
}  # fmt: skip
"""Sort orders of labels, in words and in SQL, without ties. docs/review.md (Searches and queues) defines the queues."""
QUEUES: dict[Order, str] = {
    "informative": "information",
    "audit": AUDIT,
    "adjudication": ADJUDICATION,
    "check": "check",
}
"""Orders that are queues → their name in the log of verdicts."""
CONFIDENT = 0.98
"""Lowest probability of labels that can be accepted as a class."""
JUDGED = f"SELECT relation FROM {LIVE}.reviewed WHERE reviewer = $viewer"
"""The labels that a viewer judged, one by one or with their class."""
MINE = f"{JUDGED} AND queue <> '{CLASS}'"
"""The labels that a viewer judged one by one."""
CONTESTED = (
    f"SELECT relation FROM {LIVE}.reviewed WHERE queue <> '{CLASS}' GROUP BY relation HAVING count(DISTINCT answer) "
    f"> 1 AND NOT bool_or(queue = '{ADJUDICATION}')"
)
"""The labels on which reviewers disagree and nobody has settled it."""
CLASSES = (
    f"SELECT predicate, subject_category, object_category FROM {LIVE}.reviewed_labels SEMI JOIN ({JUDGED} "
    f"AND queue = '{CLASS}') AS accepted USING (relation)"
)
"""The classes of alike labels that a viewer accepted."""


class Search(BaseModel):
    """Which labels or images to find, and in which order. Every field is in the page's URL, so a search can be saved.

    Raises `pydantic.ValidationError` for values out of range.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    dataset: _Name = ""
    predicate: _Name = ""
    """Canonical predicate."""
    subject: _Name = ""
    """Category of the subject's box."""
    object: _Name = ""
    """Category of the object's box."""
    category: _Name = ""
    """Category of either box."""
    text: _Name = ""
    """Part of a caption, ignoring case."""
    least: _Share = 0.0
    """Lowest score."""
    most: _Share = 1.0
    """Highest score."""
    kept: Literal["", "yes", "no"] = ""
    reason: _Name = ""
    """Why a label is not kept."""
    correct: Literal["", "yes", "no", "unknown"] = ""
    """Whether the relation is in the ground truth."""
    disagree: Literal["", "naive", "tagger", "reviewers", "only here", "kept here", "kept there"] = ""
    """naive: matching proposed it, the tagger refused it; tagger: kept, but in no caption; reviewers: their verdicts
    differ; others: between runs."""
    reviewed: Literal["", "yes", "no", "by me", "not by me"] = ""
    reviewer: _Name = ""
    """Who has judged it."""
    within: float | None = Field(None, ge=0, le=86_400)
    """It was judged in fewer seconds."""
    share: Literal["", "mine"] = ""
    """mine: the viewer's share of a team's images."""
    verdict: Literal["", "accept", "reject", "wrong_pair", "wrong_predicate", "unsure"] = ""
    image_id: int | None = Field(None, ge=0, le=2**62)
    order: Order = "score"
    viewer: str = Field("", exclude=True)
    """Who searches, where the results or their order depend on it: each reviewer pages through an order of their
    own."""
    seat: int = Field(0, exclude=True)
    """The viewer's seat in the team."""

    @property
    def follows_verdicts(self) -> bool:
        """Whether new verdicts change the results or their order."""
        filters = self.reviewed or self.reviewer or self.verdict or self.within or self.disagree == "reviewers"
        return bool(filters) or self.order in QUEUES

    @property
    def loses_judged(self) -> bool:
        """Whether labels that the viewer judges are no longer results."""
        return self.reviewed in ("no", "not by me") or self.order in ("adjudication", "check")

    def seen_by(self, viewer: str, seat: int) -> Search:
        """The same search by this reviewer, who has this seat in the team."""
        is_own = self.follows_verdicts or bool(self.share)
        return self.model_copy(update={"viewer": viewer if is_own else "", "seat": seat if self.share else 0})

    @property
    def unjudged(self) -> Search:
        """The search without what concerns verdicts: the population of which a reviewer judges some."""
        return self.model_copy(update={"reviewed": "", "reviewer": "", "verdict": "", "within": None, "viewer": ""})

    def query(self, **changes: Any) -> str:
        """The search as a URL query without defaults. `changes` replace fields."""
        values = {**self.model_dump(exclude_defaults=True), **changes}
        return urlencode({name: value for name, value in values.items() if value not in ("", None)})

    def conditions(self) -> tuple[str, dict[str, Any]]:
        """The SQL condition over `relations` joined with `images`, and its parameters, which have the fields' names."""
        own = f"image IN (SELECT image FROM {LIVE}.shares WHERE seat = $seat)"
        again = f"relation IN (SELECT relation FROM {LIVE}.honeypots WHERE seat = $seat)"
        conditions: tuple[tuple[object, str], ...] = (
            *((getattr(self, name), f"{name} = ${name}") for name in ("dataset", "predicate", "reason")),
            (self.image_id is not None, "image_id = $image_id"),
            *((getattr(self, end), f"{end}_category = ${end}") for end in ("subject", "object")),
            (self.category, "(subject_category = $category OR object_category = $category)"),
            (self.text, "captions ILIKE $text ESCAPE '!'"),
            (self.least > 0, f"{_SCORE} >= $least"),
            (self.most < 1, f"{_SCORE} <= $most"),
            (self.kept, "kept" if self.kept == "yes" else "NOT kept"),
            (self.correct, _CORRECT.get(self.correct, "")),
            (self.disagree, _DISAGREEMENTS.get(self.disagree, "")),
            (self.reviewed, _REVIEWED.get(self.reviewed, "")),
            (
                self.verdict or self.reviewer or self.within,
                f"relation IN (SELECT relation FROM {LIVE}.reviewed WHERE $verdict IN ('', kind) "
                "AND $reviewer IN ('', reviewer) AND ($within::DOUBLE IS NULL OR seconds < $within))",
            ),
            (self.share, f"({own} OR {again})" if self.order == "audit" else own),
            (self.order in _QUEUED, _QUEUED.get(self.order, "")),
        )
        sql = " AND ".join(condition for is_set, condition in conditions if is_set) or "true"
        # DuckDB refuses parameters that a statement does not name.
        values = {name: getattr(self, name) for name in re.findall(r"\$(\w+)", sql)}
        literally = self.text.replace("!", "!!").replace("%", "!%").replace("_", "!_")  # wildcards of LIKE
        return sql, values | ({"text": f"%{literally}%"} if self.text else {})


_CORRECT = {"yes": "correct", "no": "NOT correct", "unknown": "correct IS NULL"}
_DISAGREEMENTS = {
    "naive": "proposed AND NOT kept",
    "tagger": "kept AND NOT proposed",
    "reviewers": f"relation IN ({CONTESTED})",
    "only here": "relation NOT IN (SELECT relation FROM against)",
    "kept here": "kept AND relation NOT IN (SELECT relation FROM against WHERE kept)",
    "kept there": "NOT kept AND relation IN (SELECT relation FROM against WHERE kept)",
}
_REVIEWED = {
    "yes": f"relation IN (SELECT relation FROM {LIVE}.reviewed)",
    "no": f"NOT relation IN (SELECT relation FROM {LIVE}.reviewed)",
    "by me": f"relation IN ({MINE})",
    "not by me": f"NOT relation IN ({MINE})",
}
_QUEUED: dict[Order, str] = {
    "informative": "relation IN (SELECT relation FROM informative)",
    "audit": "relation IN (SELECT relation FROM audit)",
    "adjudication": f"relation IN ({CONTESTED}) AND relation NOT IN ({MINE})",
    "check": f"probability >= {CONFIDENT} AND relation NOT IN ({JUDGED}) "
    f"AND (predicate, subject_category, object_category) IN ({CLASSES})",
}
"""Orders that list only some labels → which."""
