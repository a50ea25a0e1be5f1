"""Chooses which scored labels are kept, by settings of stage `shard` that shards, figures and reports share.

A label that is not kept has a reason, so that every label can be accounted for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Annotated, Any, Literal

import pyarrow as pa
from pydantic import Field

from pipeline.labels.label_overrides import ImageOverrides, Named, Overrides
from pipeline.runtime.settings import Settings
from pipeline.training.sample import SampleRelation, strongest
from storage.errors import FatalError
from storage.runs import Run
from tagger.english.predicates import canonical
from tagger.labelling.calibration import Calibration, Line
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
    """Pseudo-labels with a lower confidence are excluded."""
    thresholds: dict[str, Annotated[float, Field(ge=0.0, le=1.0)]] = Field({})
    """Thresholds for individual predicates, by canonical name."""
    per_pair: int | None = Field(None, ge=1)
    """Maximum number of pseudo relations per ordered pair of boxes; the most confident are kept. None: no limit."""
    max_relations: int = Field(100, ge=1)
    """Maximum number of relations per image; the best-scoring are kept."""

    calibration: dict[str, tuple[float, float]] = Field({})
    """Scale and offset of the score's logit by canonical predicate ("": all others), in place of the tagger's own.
    `rlip verdicts calibration` fits them. Only confidence "calibrated" reads them."""

    def choice(self) -> LabelChoice:
        """The rule to apply to each image."""
        return LabelChoice(self.confidence, self.rule, self.threshold, self.thresholds, self.per_pair)

    def fitted_calibration(self) -> Calibration | None:
        """The calibration that replaces the tagger's; None where the settings have none or do not use any."""
        if not self.calibration or self.confidence != "calibrated":
            return None
        lines = {name: Line(*values) for name, values in self.calibration.items()}
        return Calibration(lines.get("", Line()), lines)

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
REJECTED_BY_REVIEWER = "rejected by a reviewer"
ACCEPTED = 1.0
"""Confidence of a label that reviewers accepted."""
NO_OVERRIDES = ImageOverrides()


def kept_labels(
    relations: pa.Table, candidates: pa.Table, settings: ChoiceSettings, overrides: Overrides | None = None
) -> KeptLabels:
    """Chooses the labels to keep from a partition's `relations`, as `judged_labels` does.

    Labels that reviewers have added and the tagger has not scored come with them.
    """
    rows = relations.to_pylist()
    ambiguities = {row["image_id"]: _ambiguities(row["pairs"]) for row in candidates.to_pylist()}
    found: dict[int, tuple[SampleRelation, ...]] = {}
    for row, judged in zip(rows, judged_labels(relations, candidates, settings, overrides).values(), strict=True):
        clear = ambiguities.get(row["image_id"], {})
        given = (overrides or {}).get(row["image_id"], NO_OVERRIDES)
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
        kept += [
            SampleRelation(subject, object_, predicate, ACCEPTED, surface=predicate)
            for subject, object_, predicate in _added(row["relations"], given)[: settings.max_relations]
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


def _added(labels: Sequence[Mapping[str, Any]], overrides: ImageOverrides) -> list[Named]:
    """The labels that reviewers say are right and the tagger has not scored."""
    return sorted(overrides.right - {(r["subject"], r["object"], canonical(r["predicate"])) for r in labels})


def judged_labels(
    relations: pa.Table, candidates: pa.Table, settings: ChoiceSettings, overrides: Overrides | None = None
) -> Mapping[int, Sequence[Judged]]:
    """Image id → a verdict on each label of a partition's `relations`, in order; only rule "best" reads `candidates`.

    `overrides` come before all settings except `max_relations`. A label that reviewers rejected takes no place of another.

    Raises `FatalError` when the labels lack a value that the settings require.
    """
    pairs: dict[int, list[Pair]] = {}
    if settings.rule == "best":
        for row in candidates.to_pylist():
            pairs[row["image_id"]] = [Pair(**pair) for pair in row["pairs"]]
    choice, names = settings.choice(), [each.name for each in fields(Relation)]
    fitted = settings.fitted_calibration()
    found: dict[int, Sequence[Judged]] = {}
    for row in relations.to_pylist():
        labels = [Relation(**{name: values[name] for name in names}) for values in row["relations"]]
        labels = (
            [replace(r, calibrated=fitted.probability(canonical(r.predicate), r.score)) for r in labels]
            if fitted
            else labels
        )
        of_image = (overrides or {}).get(row["image_id"], NO_OVERRIDES)
        try:
            judged = _judge(choice, labels, pairs.get(row["image_id"], []), of_image)
        except ValueError as error:
            raise FatalError(str(error)) from error
        most = max(0, settings.max_relations - len(_added(row["relations"], of_image)))
        found[row["image_id"]] = _distinct(labels, judged, most)
    return found


def _judge(
    choice: LabelChoice, labels: Sequence[Relation], pairs: Sequence[Pair], overrides: ImageOverrides
) -> list[Judged]:
    """Judges labels by the settings, and those that reviewers have settled by what they say."""
    if overrides is NO_OVERRIDES:
        return choice.judge(labels, pairs)
    names = [(label.subject, label.object, canonical(label.predicate)) for label in labels]
    left = [place for place, name in enumerate(names) if name not in overrides.wrong]
    judged = dict(zip(left, choice.judge([labels[place] for place in left], pairs), strict=True))
    found = []
    for place, (name, label) in enumerate(zip(names, labels, strict=True)):
        if name in overrides.right:
            found.append(Judged(ACCEPTED))
        else:
            found.append(judged.get(place, Judged(label.score, REJECTED_BY_REVIEWER)))
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
