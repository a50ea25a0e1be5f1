"""Chooses which scored labels are kept, by settings of stage `shard` that shards, figures and reports share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Annotated, Any, Literal

import pyarrow as pa
from pydantic import Field

from pipeline.runtime.settings import Settings
from pipeline.training.sample import SampleRelation, strongest
from storage.errors import FatalError
from storage.runs import Run
from tagger.english.predicates import canonical
from tagger.labelling.label_choice import LabelChoice
from tagger.pair import Pair
from tagger.relation import Relation


class ChoiceSettings(Settings):
    """Which of the tagger's labels are used for training. Changing these never reruns the tagger."""

    confidence: Literal["score", "calibrated"] = "score"
    """Confidence of a pseudo relation: the tagger's raw score, or the calibrated probability for that score."""
    rule: Literal["all", "best", "posterior"] = "all"
    """Which pairs to keep of an ambiguous caption. all: every pair; best: the likeliest, as many as the caption means;
    posterior: every pair, with its confidence multiplied by its posterior."""
    threshold: float = Field(0.2, ge=0.0, le=1.0)
    """Pseudo relations with a lower confidence are left out."""
    thresholds: dict[str, Annotated[float, Field(ge=0.0, le=1.0)]] = Field({})
    """Thresholds for individual predicates, by canonical name."""
    per_pair: int | None = Field(None, ge=1)
    """Maximum number of pseudo relations per ordered pair of boxes; the most confident are kept. None: no limit."""
    max_relations: int = Field(100, ge=1)
    """Maximum number of relations per image; the best-scoring are kept."""

    def choice(self) -> LabelChoice:
        """The rule to apply to each image."""
        return LabelChoice(self.confidence, self.rule, self.threshold, self.thresholds, self.per_pair)

    def in_words(self) -> str:
        """A short description, e.g. "score ≥ 0.2, best of each mention"."""
        weighed = " times posterior" if self.rule == "posterior" else ""
        words = f"{self.confidence}{weighed} ≥ {self.threshold:g}"
        if self.thresholds:
            words += f" ({', '.join(f'{name} {least:g}' for name, least in sorted(self.thresholds.items()))})"
        if self.rule == "best":
            words += ", best of each mention"
        return words if self.per_pair is None else f"{words}, at most {self.per_pair} per pair"


def choice_of(run: Run) -> ChoiceSettings | None:
    """Which labels the shards of a run keep or, before it has shards, those that its recipe keeps. None for imported labels."""
    shard = next(iter(run.artifacts("shard:pseudo").values()), None)
    settings = shard.manifest.terms["settings"] if shard is not None else run.read_document("recipe").get("shard")
    return None if settings is None else recorded_choice(settings)


def recorded_choice(settings: Mapping[str, Any]) -> ChoiceSettings:
    """The choice among settings of stage `shard`. Settings that its version did not have get their defaults."""
    return ChoiceSettings.model_validate({n: v for n, v in settings.items() if n in ChoiceSettings.model_fields})


KeptLabels = Mapping[int, tuple[SampleRelation, ...]]
"""Image id → its kept labels, each with canonical predicate and confidence."""


def kept_labels(relations: pa.Table, candidates: pa.Table, settings: ChoiceSettings) -> KeptLabels:
    """Chooses the labels to keep from a partition's `relations`; only rule "best" reads `candidates`.

    Raises `FatalError` when the labels lack a value that the settings require.
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
