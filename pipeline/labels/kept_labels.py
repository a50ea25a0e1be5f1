"""Which scored labels are kept: the settings of stage `shard` that say so, for the shards and for all that counts labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Annotated, Any, Literal

import pyarrow as pa
from pydantic import Field

from pipeline.runtime.settings import Settings
from pipeline.training.sample import SampleRelation, strongest
from storage.errors import FatalError
from tagger.english.predicates import canonical
from tagger.labelling.label_choice import LabelChoice
from tagger.pair import Pair
from tagger.relation import Relation


class ChoiceSettings(Settings):
    """Which of the tagger's labels are trained on; none of it runs the tagger again."""

    confidence: Literal["score", "calibrated"] = "score"
    """What counts as a pseudo relation's confidence: the tagger's raw score, or the probability that it stands for."""
    rule: Literal["all", "best", "posterior"] = "all"
    """Of the pairs that a caption may mean: all; as many as it means, the likeliest; or all, each less sure by as much as
    the others are likelier."""
    threshold: float = Field(0.2, ge=0.0, le=1.0)
    """Pseudo relations with a lower confidence are left out."""
    thresholds: dict[str, Annotated[float, Field(ge=0.0, le=1.0)]] = Field(default_factory=dict)
    """Thresholds of single predicates, by canonical name."""
    per_pair: int | None = Field(None, ge=1)
    """At most so many pseudo relations of an ordered pair of boxes, the surest."""
    max_relations: int = Field(100, ge=1)
    """At most so many relations an image, best score first."""

    def choice(self) -> LabelChoice:
        """The rule that is applied to each image."""
        return LabelChoice(self.confidence, self.rule, self.threshold, self.thresholds, self.per_pair)

    def in_words(self) -> str:
        """The same in short, e.g. "score ≥ 0.2, best of each mention"."""
        weighed = " times posterior" if self.rule == "posterior" else ""
        words = f"{self.confidence}{weighed} ≥ {self.threshold:g}"
        if self.thresholds:
            words += f" ({', '.join(f'{name} {least:g}' for name, least in sorted(self.thresholds.items()))})"
        if self.rule == "best":
            words += ", best of each mention"
        return words if self.per_pair is None else f"{words}, at most {self.per_pair} a pair"


KeptLabels = Mapping[int, tuple[SampleRelation, ...]]
"""Image id → its kept labels, predicates canonical, each with its confidence."""


def kept_labels(relations: pa.Table, candidates: pa.Table, settings: ChoiceSettings) -> KeptLabels:
    """What is kept of a partition's `relations`; `candidates` are read by rule "best" alone.

    Raises `FatalError` when the labels lack what the settings ask for.
    """
    pairs: dict[int, list[Pair]] = {}
    if settings.rule == "best":
        for row in candidates.to_pylist():
            pairs[row["image_id"]] = [Pair(**pair) for pair in row["pairs"]]
    choice, names = settings.choice(), [each.name for each in fields(Relation)]
    try:
        return {
            row["image_id"]: _of_image(
                choice.chosen(_relations(row["relations"], names), pairs.get(row["image_id"], [])),
                settings.max_relations,
            )
            for row in relations.to_pylist()
        }
    except ValueError as error:
        raise FatalError(str(error)) from error


def _relations(rows: Iterable[Mapping[str, Any]], names: Sequence[str]) -> list[Relation]:
    return [Relation(**{name: values[name] for name in names}) for values in rows]


def _of_image(chosen: Iterable[tuple[Relation, float]], most: int) -> tuple[SampleRelation, ...]:
    labels = [SampleRelation(r.subject, r.object, canonical(r.predicate), round(sure, 6)) for r, sure in chosen]
    return strongest([label for label in labels if label.predicate], most)
