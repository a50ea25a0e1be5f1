"""Chooses which scored labels are kept, by settings of stage `shard` that shards, figures and reports share.

A label that is not kept has a reason, so that every label can be accounted for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Annotated, Any, Literal

import pyarrow as pa
from pydantic import Field

from pipeline.runtime.settings import Settings
from pipeline.training.sample import SampleRelation, strongest
from storage.errors import FatalError
from storage.runs import Run
from tagger.english.predicates import canonical
from tagger.labelling.label_choice import Judged, LabelChoice
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


EVERY_LABEL = ChoiceSettings(threshold=0.0, max_relations=2**31)
"""Keeps all labels, as those of an import are, which no shard chooses from."""


def choice_or_all(run: Run) -> ChoiceSettings:
    """Which labels a run keeps; all of imported ones."""
    return choice_of(run) or EVERY_LABEL


def recorded_choice(settings: Mapping[str, Any]) -> ChoiceSettings:
    """The choice among settings of stage `shard`. Settings that its version did not have get their defaults."""
    return ChoiceSettings.model_validate({n: v for n, v in settings.items() if n in ChoiceSettings.model_fields})


KeptLabels = Mapping[int, tuple[SampleRelation, ...]]
"""Image id → its kept labels, each with canonical predicate and confidence."""


UNREADABLE = "no canonical predicate"
REPEATED = "the same label in other words counts"
OVER_PER_IMAGE = "over the limit per image"


def kept_labels(relations: pa.Table, candidates: pa.Table, settings: ChoiceSettings) -> KeptLabels:
    """Chooses the labels to keep from a partition's `relations`, as `judged_labels` does."""
    rows = relations.to_pylist()
    ambiguities = {row["image_id"]: _ambiguities(row["pairs"]) for row in candidates.to_pylist()}
    found: dict[int, tuple[SampleRelation, ...]] = {}
    for row, judged in zip(rows, judged_labels(relations, candidates, settings).values(), strict=True):
        clear = ambiguities.get(row["image_id"], {})
        kept = [
            SampleRelation(
                label["subject"],
                label["object"],
                canonical(label["predicate"]),
                one.confidence,
                surface=label["predicate"],
                ambiguity=clear.get((label["subject"], label["object"], label["predicate"])),
                triplet=_known(label["triplet"]),
                caption=_known(label["caption"]),
            )
            for label, one in zip(row["relations"], judged, strict=True)
            if one.reason is None
        ]
        found[row["image_id"]] = tuple(sorted(kept, key=lambda r: (r.subject, r.object, r.predicate)))
    return found


def naive_labels(candidates: pa.Table, limit: int) -> KeptLabels:
    """Takes every candidate of a partition for true, as naive matching does, and at most `limit` labels per image.

    Nothing ranks these labels, so those over the limit are the last in the order of their boxes.
    """
    found: dict[int, tuple[SampleRelation, ...]] = {}
    for row in candidates.to_pylist():
        clear = _ambiguities(row["pairs"])
        labels = [
            SampleRelation(
                pair["subject"],
                pair["object"],
                canonical(pair["predicate"]),
                surface=pair["predicate"],
                ambiguity=clear[pair["subject"], pair["object"], pair["predicate"]],
                triplet=_known(pair["triplet"]),
            )
            for pair in row["pairs"]
        ]
        found[row["image_id"]] = strongest([label for label in labels if label.predicate], limit)
    return found


def _known(number: int | None) -> int | None:
    """A number of the relations table, where -1 and null stand for none."""
    return None if number is None or number < 0 else number


def _ambiguities(pairs: Sequence[Mapping[str, Any]]) -> dict[tuple[int, int, str], int]:
    """Label → the number of pairs that its clearest mention may mean."""
    found: dict[tuple[int, int, str], int] = {}
    for pair in pairs:
        label = pair["subject"], pair["object"], pair["predicate"]
        found[label] = min(pair["ambiguity"], found.get(label, pair["ambiguity"]))
    return found


def judged_labels(
    relations: pa.Table, candidates: pa.Table, settings: ChoiceSettings
) -> Mapping[int, Sequence[Judged]]:
    """Image id → a verdict on each label of a partition's `relations`, in order; only rule "best" reads `candidates`.

    Raises `FatalError` when the labels lack a value that the settings require.
    """
    pairs: dict[int, list[Pair]] = {}
    if settings.rule == "best":
        for row in candidates.to_pylist():
            pairs[row["image_id"]] = [Pair(**pair) for pair in row["pairs"]]
    choice, names = settings.choice(), [each.name for each in fields(Relation)]
    found: dict[int, Sequence[Judged]] = {}
    for row in relations.to_pylist():
        labels = [Relation(**{name: values[name] for name in names}) for values in row["relations"]]
        try:
            judged = choice.judge(labels, pairs.get(row["image_id"], []))
        except ValueError as error:
            raise FatalError(str(error)) from error
        found[row["image_id"]] = _distinct(labels, judged, settings.max_relations)
    return found


def _distinct(labels: Sequence[Relation], judged: Sequence[Judged], most: int) -> list[Judged]:
    """Leaves out labels without a canonical predicate, all but the surest of equal labels, and those over the limit."""
    found = [Judged(round(one.confidence, 6), one.reason) for one in judged]
    best: dict[tuple[int, int, str], int] = {}
    for place, label in enumerate(labels):
        if found[place].reason is not None:
            continue
        name = label.subject, label.object, canonical(label.predicate)
        if not name[2]:
            found[place] = found[place]._replace(reason=UNREADABLE)
        elif name not in best or found[place].confidence > found[best[name]].confidence:
            if name in best:
                found[best[name]] = found[best[name]]._replace(reason=REPEATED)
            best[name] = place
        else:
            found[place] = found[place]._replace(reason=REPEATED)
    ranked = sorted(best, key=lambda name: (-found[best[name]].confidence, *name))
    for name in ranked[most:]:
        found[best[name]] = found[best[name]]._replace(reason=OVER_PER_IMAGE)
    return found
