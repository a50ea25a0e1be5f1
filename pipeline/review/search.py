"""A search for labels or images: its conditions and order, in a URL and as SQL."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from pydantic import BaseModel, ConfigDict, Field

Order = Literal["score", "lowest", "uncertain", "informative", "disagreement", "rare", "random", "image", "audit"]
LONGEST_NAME = 200
"""Maximum number of characters of a name or text to search for."""
_Name = Annotated[str, Field(max_length=LONGEST_NAME)]
_Share = Annotated[float, Field(ge=0.0, le=1.0)]

_PROBABILITY = "least(greatest(probability, 1e-6), 1 - 1e-6)"
_ENTROPY = f"-({_PROBABILITY} * log2({_PROBABILITY}) + (1 - {_PROBABILITY}) * log2(1 - {_PROBABILITY}))"
ORDERS: dict[Order, str] = {
    "score": "score DESC, relation",
    "lowest": "score, relation",
    "uncertain": "abs(probability - 0.5), relation",
    "informative": f"{_ENTROPY} * sqrt(frequency) / (1 + judged + rank) DESC, relation",
    "disagreement": "CASE WHEN proposed THEN 1 - probability ELSE probability END DESC, relation",
    "rare": "frequency, score DESC, relation",
    "random": "hash(relation, $seed::BIGINT), relation",
    "image": "relation",
    "audit": "audit_place",
}
"""Sort orders of labels, without ties. docs/review.md (Queues) defines "informative"."""
QUEUES: dict[Order, str] = {"informative": "information", "audit": "audit"}
"""Orders that are queues → their name in the log of verdicts."""


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
    disagree: Literal["", "naive", "tagger", "only here", "kept here", "kept there"] = ""
    """naive: matching proposed it, the tagger refused it; tagger: kept, but in no caption; others: between runs."""
    reviewed: Literal["", "yes", "no"] = ""
    verdict: Literal["", "accept", "reject", "wrong_pair", "wrong_predicate", "unsure"] = ""
    image_id: int | None = Field(None, ge=0, le=2**62)
    order: Order = "score"
    seed: int = Field(0, ge=0, le=2**31)
    """Seed of the random order."""

    def query(self, **changes: Any) -> str:
        """The search as a URL query without defaults. `changes` replace fields."""
        values = {**self.model_dump(exclude_defaults=True), **changes}
        return urlencode({name: value for name, value in values.items() if value not in ("", None)})

    def conditions(self) -> tuple[str, dict[str, Any]]:
        """The SQL condition over `relations` joined with `images`, and its parameters."""
        where: list[str] = []
        values: dict[str, Any] = {}

        def add(condition: str, **parameters: Any) -> None:
            where.append(condition)
            values.update(parameters)

        for name in ("dataset", "predicate", "reason", "image_id"):
            if (value := getattr(self, name)) not in ("", None):
                add(f"{name} = ${name}", **{name: value})
        for end in ("subject", "object"):
            if value := getattr(self, end):
                add(f"{end}_category = ${end}", **{end: value})
        if self.category:
            add("(subject_category = $category OR object_category = $category)", category=self.category)
        if self.text:
            add("captions ILIKE $text ESCAPE '!'", text=f"%{_literally(self.text)}%")
        if self.least > 0:
            add("score >= $least", least=self.least)
        if self.most < 1:
            add("score <= $most", most=self.most)
        if self.kept:
            add("kept" if self.kept == "yes" else "NOT kept")
        if self.correct:
            add({"yes": "correct", "no": "NOT correct", "unknown": "correct IS NULL"}[self.correct])
        if self.disagree:
            add(_DISAGREEMENTS[self.disagree])
        if self.reviewed:
            add(f"{'' if self.reviewed == 'yes' else 'NOT '}relation IN (SELECT relation FROM live.reviewed)")
        if self.verdict:
            add("relation IN (SELECT relation FROM live.reviewed WHERE kind = $verdict)", verdict=self.verdict)
        return " AND ".join(where) or "true", values

    def reads_images(self) -> bool:
        """Whether the conditions concern images, so that these must be joined."""
        return bool(self.dataset or self.text or self.image_id is not None)


_DISAGREEMENTS = {
    "naive": "proposed AND NOT kept",
    "tagger": "kept AND NOT proposed",
    "only here": "relation NOT IN (SELECT relation FROM against)",
    "kept here": "kept AND relation NOT IN (SELECT relation FROM against WHERE kept)",
    "kept there": "NOT kept AND relation IN (SELECT relation FROM against WHERE kept)",
}


def _literally(text: str) -> str:
    """`text` for LIKE, with its wildcards escaped."""
    return text.replace("!", "!!").replace("%", "!%").replace("_", "!_")
