"""Chooses which scored labels are kept, by settings of stage `shard` that shards, figures and reports share.

A label that is not kept has a reason, so that every label can be accounted for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Literal, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator

from pipeline.evaluation.ranking import ranks_in
from pipeline.labels.flat_list import FlatList
from pipeline.labels.label_overrides import ImageOverrides, Overrides
from pipeline.labels.labelled_partitions import candidates, packed_labels
from pipeline.runtime.settings import Settings
from pipeline.training.sample import SampleRelation, strongest
from storage.artifact import Artifact
from storage.errors import FatalError
from storage.runs import Run
from tagger.english.predicates import canonical
from tagger.labelling.calibration import Calibration, PlattScaling
from tagger.pair import NO_MENTION


class ChoiceSettings(Settings):
    """Which of the tagger's labels are used for training. Changing these never reruns the tagger."""

    confidence: Literal["probability", "calibrated", "score"] = "probability"
    """Confidence of a pseudo-label. probability: that it holds for this exact pair, from the tagger, boxes, names and
    captions; calibrated: from the tagger's score alone; score: the raw score, the default if a rule is set."""
    rule: Literal["all", "best", "posterior"] = "all"
    """Which pairs to keep of an ambiguous caption. all: every pair; best: the most probable, as many as the caption
    means; posterior: every pair, its confidence multiplied by its posterior (a probability includes it already)."""
    threshold: float = Field(0.45, ge=0.0, le=1.0)
    """Minimum confidence of a pseudo-label; the default is 0.2 unless the confidence is a probability."""
    thresholds: dict[str, Annotated[float, Field(ge=0.0, le=1.0)]] = Field({})
    """Thresholds for individual predicates, in any wording of them."""
    per_pair: int | None = Field(None, ge=1)
    """Maximum number of pseudo-labels per ordered pair of boxes; the most confident are kept. Unset: no limit."""
    max_relations: int = Field(100, ge=1)
    """Maximum number of relations per image; the most confident are kept. The tagger learns from all."""

    calibration: dict[str, tuple[float, float]] = Field({})
    """For confidence "calibrated": scale and offset of the score's logit by canonical predicate ("": all others), in
    place of the tagger's own, as `rlip verdicts calibration` fits them."""

    @model_validator(mode="before")
    @classmethod
    def _names_a_rule_or_measure(cls, values: Any) -> Any:
        if isinstance(values, dict) and ("rule" in values or values.get("confidence", "probability") != "probability"):
            values = {"confidence": "score", **values}
            return values if values["confidence"] == "probability" else {"threshold": 0.2, **values}
        return values

    @model_validator(mode="after")
    def _weighs_a_posterior_once(self) -> Self:
        if self.confidence == "probability" and self.rule == "posterior":
            raise ValueError(
                "rule: a probability already includes the posterior; use 'all', or confidence = 'calibrated'"
            )
        return self

    @field_validator("thresholds")
    @classmethod
    def _has_one_threshold_each(cls, values: dict[str, float]) -> dict[str, float]:
        named: dict[str, str] = {}
        for name in values:
            if (other := named.setdefault(canonical(name), name)) != name:
                raise ValueError(f"{other!r} and {name!r} are one predicate; give one threshold for both")
        return values

    def fitted_calibration(self) -> Calibration | None:
        """The calibration that replaces the tagger's; None where the settings have none or do not use any."""
        if not self.calibration or self.confidence != "calibrated":
            return None
        lines = {name: PlattScaling(*values) for name, values in self.calibration.items()}
        return Calibration(lines.get("", PlattScaling()), lines)

    def in_words(self) -> str:
        """A short description, e.g. "score ≥ 0.2, best of each mention"."""
        measured, _, best = self.rule_in_words().partition(",")
        words = f"{measured} ≥ {self.threshold:g}"
        if self.thresholds:
            words += f" ({', '.join(f'{name} {least:g}' for name, least in sorted(self.thresholds.items()))})"
        words += f",{best}" if best else ""
        return words if self.per_pair is None else f"{words}, at most {self.per_pair} per pair"

    def rule_in_words(self) -> str:
        """What labels are ranked by, e.g. "score, best of each mention"."""
        return (
            self.confidence + {"all": "", "best": ", best of each mention", "posterior": " times posterior"}[self.rule]
        )


UNLIMITED = 2**31
"""`max_relations` that leaves out no label."""
EVERY_LABEL = ChoiceSettings(confidence="score", threshold=0.0, max_relations=UNLIMITED)
"""Keeps all labels. For imported ones, from which no shard chooses."""


def choice_of(run: Run) -> ChoiceSettings | None:
    """Which labels a run's shards keep or, if it packs none, its recipe; all of an import's.

    None without a recipe.
    """
    shard = next(iter(packed_labels(run).values()), None)
    settings = shard.manifest.terms["settings"] if shard is not None else run.recipe.get("shard")
    tagged = next(iter(run.artifacts("tag").values()), None)
    if settings is not None and tagged is not None and "imported" in tagged.manifest.terms["settings"]:
        return EVERY_LABEL
    return None if settings is None else recorded_choice(settings)


def choice_or_all(run: Run) -> ChoiceSettings:
    """Which labels a run keeps; all of imported ones."""
    return choice_of(run) or EVERY_LABEL


def recorded_choice(settings: Mapping[str, Any]) -> ChoiceSettings:
    """The choice among settings of stage `shard`. Settings that its version lacked get the defaults of that time."""
    known = {n: v for n, v in settings.items() if n in ChoiceSettings.model_fields}
    return ChoiceSettings.model_validate({"confidence": "score"} | known)


KeptLabels = Mapping[int, tuple[SampleRelation, ...]]
"""Image id → its kept labels, each with canonical predicate and confidence."""


class NotKept(StrEnum):
    """Why a scored label is not kept. The first reason that applies counts."""

    REJECTED_BY_REVIEWER = "rejected by a reviewer"
    LESS_LIKELY = "another pair of its mention is likelier"
    BELOW_THRESHOLD = "below the threshold"
    UNREADABLE = "no canonical predicate"
    REPEATED = "the same label in other words is kept"
    OVER_PER_PAIR = "over the limit per pair"
    OVER_PER_IMAGE = "over the limit per image"


LACKING = {
    "probability": "labels of earlier versions have no probability; run `tag` again",
    "calibrated": "labels are not calibrated; train the tagger with held_out > 0",
}
"""Measure → why labels lack it, and what to do."""
ACCEPTED, REJECTED = 1.0, 0.0
"""Confidences of labels that reviewers accepted and rejected, which rank them among the others."""
NO_OVERRIDES = ImageOverrides()


def shown(confidence: float) -> float:
    """A confidence as it is shown, stored and compared with thresholds: .9 where a 32-bit table holds .89999998."""
    return round(confidence, 6)


class Judged(NamedTuple):
    """The confidence of a label; `reason` is None when it is kept."""

    confidence: float
    reason: str | None = None


ImageLabels = tuple[int, list[tuple[dict[str, Any], Judged]]]
"""The id of an image, and its labels, each judged."""


@dataclass(frozen=True)
class JudgedLabels:
    """The N labels of a partition, judged, in their order: `reason` (N) is null for kept labels.

    `relations`: the rows of that table. Labels that reviewers say are right and the tagger has not scored are the last
    of their image and have no score; an image that the tagger rejected has a row if it got such a label.
    """

    relations: pa.Table
    candidates: pa.Table
    confidence: NDArray[np.float64]
    reason: pa.Array
    is_added: NDArray[np.bool_]
    """Whether reviewers added the label (N)."""

    def each(self) -> Iterator[Judged]:
        """Yields the confidence and the reason of each label."""
        return map(Judged, self.confidence.tolist(), self.reason.to_pylist())

    def by_image(self) -> Iterator[ImageLabels]:
        """Yields the labels of each image."""
        judged = self.each()
        for row in self.relations.to_pylist():
            # The labels come first, so that `zip` takes nothing of the next image when they end.
            yield row["image_id"], list(zip(row["relations"], judged, strict=False))

    def kept(self) -> KeptLabels:
        """The kept labels."""
        ambiguities = {row["image_id"]: _ambiguities(row["pairs"]) for row in self.candidates.to_pylist()}
        found: dict[int, tuple[SampleRelation, ...]] = {}
        for image_id, labels in self.by_image():
            clear = ambiguities.get(image_id, {})
            kept = [
                # No caption states a label that reviewers added.
                _sample_relation(label, one.confidence, clear if label["score"] is not None else {})
                for label, one in labels
                if one.reason is None
            ]
            found[image_id] = tuple(sorted(kept, key=lambda r: (r.subject, r.object, r.predicate)))
        return found


def judged_artifact(tagged: Artifact, settings: ChoiceSettings, overrides: Overrides | None = None) -> JudgedLabels:
    """Judges the labels of an artifact of stage `tag` as `judged_labels` does."""
    return judged_labels(tagged.table("relations"), candidates(tagged), settings, overrides)


def ranked_labels(
    relations: pa.Table, candidates: pa.Table, settings: ChoiceSettings | None, overrides: Overrides | None
) -> Iterator[ImageLabels]:
    """Yields images as `JudgedLabels.by_image` does: by descending score, then the labels that reviewers added.

    `settings`: None keeps every label, with its score as its confidence.
    """
    judged: Iterator[ImageLabels]
    if settings is None:
        rows = relations.to_pylist()
        judged = ((row["image_id"], [(one, Judged(one["score"])) for one in row["relations"]]) for row in rows)
    else:
        judged = judged_labels(relations, candidates, settings, overrides).by_image()
    for image_id, labels in judged:
        yield image_id, sorted(labels, key=lambda pair: (pair[0]["score"] is None, -(pair[0]["score"] or 0.0)))


def naive_labels(candidates: pa.Table, limit: int) -> KeptLabels:
    """Takes every candidate of a partition for true, as naive matching does, and at most `limit` labels per image.

    Nothing ranks these labels, so those over the limit are the last in the order of their boxes.
    """
    found: dict[int, tuple[SampleRelation, ...]] = {}
    for row in candidates.to_pylist():
        clear = _ambiguities(row["pairs"])
        labels = [_sample_relation(pair, 1.0, clear) for pair in row["pairs"]]
        found[row["image_id"]] = strongest([label for label in labels if label.predicate], limit)
    return found


def _sample_relation(
    label: Mapping[str, Any], confidence: float, clear: Mapping[tuple[int, int, str], int]
) -> SampleRelation:
    """A label or pair of the tables, where -1 and null stand for no triplet and caption. `clear`: `_ambiguities`."""
    triplet, caption = (
        None if number is None or number < 0 else number for number in (label["triplet"], label.get("caption"))
    )
    predicate = label["predicate"]
    return SampleRelation(
        label["subject"], label["object"], canonical(predicate), confidence, predicate, clear.get(_named(label)),
        triplet, caption,
    )  # fmt: skip


def _named(label: Mapping[str, Any]) -> tuple[int, int, str]:
    return label["subject"], label["object"], label["predicate"]


def _ambiguities(pairs: Sequence[Mapping[str, Any]]) -> dict[tuple[int, int, str], int]:
    """Label → the number of pairs that its clearest mention may mean."""
    found: dict[tuple[int, int, str], int] = {}
    for pair in pairs:
        found[_named(pair)] = min(pair["ambiguity"], found.get(_named(pair), pair["ambiguity"]))
    return found


def judged_labels(
    relations: pa.Table, candidates: pa.Table, settings: ChoiceSettings, overrides: Overrides | None = None
) -> JudgedLabels:
    """Judges each label of a partition's `relations`; only rule "best" reads `candidates`.

    `overrides` come before all settings except `max_relations`. A label that reviewers rejected doesn't count towards
    the limits. Raises `FatalError` when the labels lack a value that the settings require.
    """
    overrides = overrides or {}
    relations = _with_added(relations, settings, overrides)
    labels = FlatList.of(relations, "relations")
    texts, text = labels.coded("predicate")
    right, wrong = _settled(relations["image_id"].to_pylist(), labels, overrides)
    is_added = np.asarray(labels.fields.field("score").is_null())
    left = ~(wrong | is_added)
    confidence, reason = np.full(len(labels), REJECTED), np.full(len(labels), NotKept.REJECTED_BY_REVIEWER, object)
    confidence[left], reason[left] = _judged_by_rules(relations, labels.where(left), candidates, settings)
    confidence[right], reason[right] = ACCEPTED, ""
    readable = [canonical(name) for name in texts]
    # Numbers in the alphabetical order of the canonical names.
    order = {name: place for place, name in enumerate(sorted(set(readable)))}
    predicate = np.array([order[name] for name in readable], np.int64)[text]
    if "" in order:
        reason[(reason == "") & (predicate == order[""])] = NotKept.UNREADABLE
    kept = np.flatnonzero((reason == "") & ~is_added)
    row, *named = (values[kept] for values in (labels.row, *labels.ends(), predicate))
    # Of equally confident ones the first counts.
    is_repeated = ranks_in((row, *named), (-confidence[kept],)) > 0
    reason[kept[is_repeated]] = NotKept.REPEATED
    kept, row, *named = (values[~is_repeated] for values in (kept, row, *named))
    if settings.per_pair is not None:
        is_over = (ranks_in((row, *named[:2]), (-confidence[kept], named[2])) >= settings.per_pair) & ~right[kept]
        reason[kept[is_over]] = NotKept.OVER_PER_PAIR
        kept, row, *named = (values[~is_over] for values in (kept, row, *named))
    most = settings.max_relations - np.bincount(labels.row[is_added], minlength=len(relations))
    reason[kept[ranks_in((row,), (-confidence[kept], *named)) >= most[row]]] = NotKept.OVER_PER_IMAGE
    reasons = pa.array([why or None for why in reason.tolist()], pa.string())
    return JudgedLabels(relations, candidates, confidence, reasons, is_added)


def _with_added(relations: pa.Table, settings: ChoiceSettings, overrides: Overrides) -> pa.Table:
    """The table `relations` with the labels that reviewers say are right and the tagger has not scored."""
    right = {image_id: of_image.right for image_id, of_image in overrides.items() if of_image.right}
    if not right:
        return relations
    rows = relations.to_pylist()
    rejected = right.keys() - {row["image_id"] for row in rows}
    rows += [{"image_id": image_id, "relations": []} for image_id in sorted(rejected)]
    for row in rows:
        scored = {(r["subject"], r["object"], canonical(r["predicate"])) for r in row["relations"]}
        row["relations"] += [
            {"subject": subject, "predicate": predicate, "object": object_, "triplet": -1}
            for subject, object_, predicate in sorted(right.get(row["image_id"], frozenset()) - scored)
        ][: settings.max_relations]
    return pa.Table.from_pylist(rows, relations.schema)


def _settled(
    image_ids: Sequence[int], labels: FlatList, overrides: Overrides
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Whether reviewers say that each label is right (N), and that it is wrong (N)."""
    right, wrong = np.zeros((2, len(labels)), bool)
    for place, (row, *ends, name) in enumerate(labels.each("subject", "object", "predicate") if overrides else ()):
        of_image, named = overrides.get(image_ids[row], NO_OVERRIDES), (*ends, canonical(name))
        right[place], wrong[place] = named in of_image.right, named in of_image.wrong
    return right, wrong


def _judged_by_rules(
    relations: pa.Table, labels: FlatList, candidates: pa.Table, settings: ChoiceSettings
) -> tuple[NDArray[np.float64], NDArray[np.object_]]:
    """Confidences (N) of some labels of `relations`, and why rules without reviewers leave them out (N), "" if kept."""
    exact = _confidence(labels, settings)
    # numpy rounds in binary, Python the decimal value: the last digit would sometimes differ.
    confidence = np.array([shown(value) for value in exact.tolist()], np.float64)
    texts, text = labels.coded("predicate")
    thresholds = {canonical(name): least for name, least in settings.thresholds.items()}
    least = np.array([thresholds.get(canonical(name), settings.threshold) for name in texts], np.float64)
    reason = np.full(len(labels), "", object)
    reason[~(confidence >= least[text])] = NotKept.BELOW_THRESHOLD  # NaN, too
    if settings.rule == "best":
        reason[~_are_likeliest(relations, labels, candidates, exact)] = NotKept.LESS_LIKELY
    return confidence, reason


def _confidence(labels: FlatList, settings: ChoiceSettings) -> NDArray[np.float64]:
    """The confidence of each label, not rounded (N)."""
    name = settings.confidence
    posterior = labels.fields.field("posterior")
    if fitted := settings.fitted_calibration():
        scored = zip(labels.values("predicate"), labels.values("score"), strict=True)
        confidence = np.array([fitted.probability(*each) for each in scored], np.float64)
    elif labels.fields.field(name).null_count:
        raise FatalError(f"shard.confidence = {name!r}: {LACKING[name]}, or use 'score'")
    else:
        confidence = labels.numbers(name).astype(np.float64)
    if settings.rule != "all" and pc.any(pc.and_(labels.fields.field("proposed"), pc.is_null(posterior))).as_py():
        raise FatalError(
            f"shard.rule = {settings.rule!r}: labels have no posteriors, which tag.method = 'prior' and 'naive' don't "
            "give; run `tag` again with another, or use 'all'"
        )
    if settings.rule == "posterior":
        # If no mention proposed the label for this pair, no mention can mean it: its posterior is 0.
        confidence = confidence * np.asarray(pc.fill_null(posterior, 0.0), np.float64)
    return confidence


def _are_likeliest(
    relations: pa.Table, labels: FlatList, candidates: pa.Table, confidence: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Whether each label is among the likeliest of a mention, as many as the mention means (N)."""
    images = relations["image_id"].to_numpy()[labels.row].tolist()
    named = list(zip(images, *map(labels.values, ("subject", "predicate", "object")), strict=True))
    ranked = {
        label: (-(posterior or 0.0), -own, label)
        for label, posterior, own in zip(named, labels.values("posterior"), confidence.tolist(), strict=True)
    }
    best: set[tuple[Any, ...]] = set()
    for row in candidates.to_pylist():
        meant: dict[int, float] = {}
        members: dict[int, list[tuple[Any, ...]]] = {}
        for pair in row["pairs"]:
            if (mention := pair["mention"]) != NO_MENTION:
                meant[mention] = meant.get(mention, 0.0) + pair["prior"]
                label = row["image_id"], pair["subject"], pair["predicate"], pair["object"]
                members.setdefault(mention, []).extend([label] if label in ranked else ())
        for mention, scored in members.items():
            best.update(sorted(scored, key=ranked.__getitem__)[: max(1, round(meant[mention]))])
    return np.array([label in best for label in named], bool)
