"""Chooses which scored labels are kept, by settings of stage `shard` that shards, figures and reports share.

A label that is not kept has a reason, so that every label can be accounted for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator

from pipeline.labels.flat_list import FlatList
from pipeline.labels.label_overrides import ImageOverrides, Named, Overrides
from pipeline.labels.labelled_partitions import packed_labels
from pipeline.runtime.settings import Settings
from pipeline.training.sample import SampleRelation, strongest
from storage.errors import FatalError
from storage.runs import Run
from tagger.english.predicates import canonical
from tagger.labelling.calibration import Calibration, PlattScaling
from tagger.labelling.label_choice import LACKING, Judged, LabelChoice, NotKept, shown
from tagger.pair import Pair
from tagger.relation import Relation


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

    def choice(self) -> LabelChoice:
        """The rule to apply to each image."""
        thresholds = {canonical(name): least for name, least in self.thresholds.items()}
        return LabelChoice(self.confidence, self.rule, self.threshold, thresholds, self.per_pair)

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
"""Keeps all labels, as those of an import are, which no shard chooses from."""


def choice_of(run: Run) -> ChoiceSettings | None:
    """The labels that a run's shards keep or, if it packs none, that its recipe keeps: all of imported ones.

    None without a recipe.
    """
    shard = next(iter(packed_labels(run).values()), None)
    settings = shard.manifest.terms["settings"] if shard is not None else run.read_document("recipe").get("shard")
    tagged = next(iter(run.artifacts("tag").values()), None)
    if settings is not None and tagged is not None and "imported" in tagged.manifest.terms["settings"]:
        return EVERY_LABEL
    return None if settings is None else recorded_choice(settings)


def choice_or_all(run: Run) -> ChoiceSettings:
    """Which labels a run keeps; all of imported ones."""
    return choice_of(run) or EVERY_LABEL


def recorded_choice(settings: Mapping[str, Any]) -> ChoiceSettings:
    """The choice among settings of stage `shard`. Settings that its version did not have get the defaults of then."""
    known = {n: v for n, v in settings.items() if n in ChoiceSettings.model_fields}
    return ChoiceSettings.model_validate({"confidence": "score"} | known)


KeptLabels = Mapping[int, tuple[SampleRelation, ...]]
"""Image id → its kept labels, each with canonical predicate and confidence."""


UNREADABLE = "no canonical predicate"
REPEATED = "the same label in other words is kept"
OVER_PER_IMAGE = "over the limit per image"
REJECTED_BY_REVIEWER = "rejected by a reviewer"
ACCEPTED, REJECTED = 1.0, 0.0
"""Confidences of labels that reviewers accepted and rejected, which rank them among the others."""
NO_OVERRIDES = ImageOverrides()


def kept_labels(
    relations: pa.Table, candidates: pa.Table, settings: ChoiceSettings, overrides: Overrides | None = None
) -> KeptLabels:
    """Chooses the labels to keep from a partition's `relations`, as `judged_labels` does.

    Labels that reviewers have added and the tagger has not scored come with them.
    """
    relations = with_added_images(relations, overrides)
    rows = relations.to_pylist()
    ambiguities = {row["image_id"]: _ambiguities(row["pairs"]) for row in candidates.to_pylist()}
    found: dict[int, tuple[SampleRelation, ...]] = {}
    for row, judged in zip(rows, judged_labels(relations, candidates, settings, overrides).values(), strict=True):
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
        kept += [
            SampleRelation(subject, object_, predicate, ACCEPTED, surface=predicate)
            for subject, object_, predicate in added_labels(row, settings, overrides)
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


def with_added_images(relations: pa.Table, overrides: Overrides | None) -> pa.Table:
    """The table `relations` with an empty row for each image that the tagger rejected and reviewers gave a label."""
    known = set(relations["image_id"].to_pylist()) if overrides else set()
    added = [image_id for image_id, of_image in (overrides or {}).items() if of_image.right and image_id not in known]
    rows = [{"image_id": image_id, "relations": []} for image_id in sorted(added)]
    return pa.concat_tables([relations, pa.Table.from_pylist(rows, relations.schema)]) if rows else relations


def added_labels(row: Mapping[str, Any], settings: ChoiceSettings, overrides: Overrides | None) -> list[Named]:
    """The kept labels of an image, a row of `relations`, that reviewers say are right and the tagger has not scored."""
    right = (overrides or {}).get(row["image_id"], NO_OVERRIDES).right
    scored = {(r["subject"], r["object"], canonical(r["predicate"])) for r in row["relations"]} if right else set()
    return sorted(right - scored)[: settings.max_relations]


@dataclass(frozen=True)
class JudgedColumns:
    """The verdicts on the N labels of a table `relations`, in its order: `reason` (N) is null for kept labels."""

    confidence: NDArray[np.float64]
    reason: pa.Array


def judged_labels(
    relations: pa.Table, candidates: pa.Table, settings: ChoiceSettings, overrides: Overrides | None = None
) -> Mapping[int, Sequence[Judged]]:
    """The verdicts of `judged_columns` by image id."""
    found = judged_columns(relations, candidates, settings, overrides)
    every = list(map(Judged, found.confidence.tolist(), found.reason.to_pylist()))
    parts = FlatList.of(relations, "relations").by_row(len(relations))
    return {image_id: every[part] for image_id, part in zip(relations["image_id"].to_pylist(), parts, strict=True)}


def judged_columns(
    relations: pa.Table, candidates: pa.Table, settings: ChoiceSettings, overrides: Overrides | None = None
) -> JudgedColumns:
    """Judges each label of a partition's `relations`; only rule "best" reads `candidates`.

    `overrides` come before all settings except `max_relations`. A label that reviewers rejected takes no place of
    another. Raises `FatalError` when the labels lack a value that the settings require.
    """
    labels = FlatList.of(relations, "relations")
    coded = labels.fields.field("predicate").dictionary_encode()
    names, surface = coded.dictionary.to_pylist(), np.asarray(coded.indices, np.int64)
    most = np.full(len(relations), settings.max_relations)
    readable = [canonical(name) for name in names]
    if settings.rule == "best" or settings.per_pair is not None or settings.fitted_calibration() or overrides:
        rows = relations.to_pylist()
        judged = _judged_by_image(rows, candidates, settings, overrides or {})
        rounded = np.array([shown(one.confidence) for one in judged], np.float64)
        reason = np.array([one.reason or "" for one in judged], object)
        for place, row in enumerate(rows):
            most[place] -= len(added_labels(row, settings, overrides))
    else:
        # The same rules as `LabelChoice`, in a tenth of the time: these settings judge each label alone.
        # numpy rounds in binary, Python the decimal value: the last digit would differ now and then.
        rounded = np.array([shown(value) for value in _confidence(labels, settings).tolist()], np.float64)
        thresholds = settings.choice().thresholds
        least = np.array([thresholds.get(name, settings.threshold) for name in readable], np.float64)
        reason = np.full(len(labels), "", object)
        reason[rounded < least[surface]] = str(NotKept.BELOW_THRESHOLD)
    order = {name: place for place, name in enumerate(sorted(set(readable)))}
    predicate = np.array([order[name] for name in readable], np.int64)[surface]
    if "" in order:
        reason[(reason == "") & (predicate == order[""])] = UNREADABLE
    _choose_distinct(labels, predicate, rounded, most, reason)
    return JudgedColumns(rounded, pa.array([text or None for text in reason.tolist()], pa.string()))


def _judged_by_image(
    rows: Sequence[Mapping[str, Any]], candidates: pa.Table, settings: ChoiceSettings, overrides: Overrides
) -> list[Judged]:
    """Judges labels by rules that compare an image's labels; reviewers' verdicts decide the labels that have one."""
    pairs: dict[int, list[Pair]] = {}
    if settings.rule == "best":
        for row in candidates.to_pylist():
            pairs[row["image_id"]] = [Pair(**pair) for pair in row["pairs"]]
    choice, names = settings.choice(), [each.name for each in fields(Relation)]
    fitted = settings.fitted_calibration()
    judged: list[Judged] = []
    for row in rows:
        labels = [Relation(**{name: values[name] for name in names}) for values in row["relations"]]
        if fitted:
            labels = [replace(r, calibrated=fitted.probability(r.predicate, r.score)) for r in labels]
        of_image = overrides.get(row["image_id"], NO_OVERRIDES)
        named = [(label.subject, label.object, canonical(label.predicate)) for label in labels]
        left = [place for place, name in enumerate(named) if name not in of_image.wrong]
        try:
            by_rule = choice.judge([labels[place] for place in left], pairs.get(row["image_id"], []))
        except ValueError as error:
            raise FatalError(str(error)) from error
        by_place = dict(zip(left, by_rule, strict=True))
        for place, name in enumerate(named):
            rejected = Judged(REJECTED, REJECTED_BY_REVIEWER)
            judged.append(Judged(ACCEPTED) if name in of_image.right else by_place.get(place, rejected))
    return judged


def _confidence(labels: FlatList, settings: ChoiceSettings) -> NDArray[np.float64]:
    """The confidence of each label, not rounded (N)."""
    name = settings.confidence
    measure, posterior = labels.fields.field(name), labels.fields.field("posterior")
    if measure.null_count:
        raise FatalError(f"shard.confidence = {name!r}: {LACKING[name]}, or use 'score'")
    confidence: NDArray[np.float64] = np.asarray(measure, np.float64)
    if settings.rule == "posterior":
        if pc.any(pc.and_(labels.fields.field("proposed"), pc.is_null(posterior))).as_py():
            raise FatalError("shard.rule = 'posterior': labels have no posteriors; run `tag` again, or use 'all'")
        # If no mention proposed the label for this pair, no mention can mean it: its posterior is 0.
        confidence = confidence * np.asarray(pc.fill_null(posterior, 0.0), np.float64)
    return confidence


def _choose_distinct(
    labels: FlatList,
    predicate: NDArray[np.int64],
    confidence: NDArray[np.float64],
    most: NDArray[np.int64],
    reason: NDArray[np.object_],
) -> None:
    """Leaves out all but the most confident of equal labels, and those over the limit of their image.

    `predicate`: numbers in the alphabetical order of the canonical names; `most`: the limit of each row of the table;
    `reason`: "" for labels that are kept, and changed in place.
    """
    kept = np.flatnonzero(reason == "")
    if not len(kept):
        return
    row = labels.row[kept]
    ends = [labels.numbers(end).astype(np.int64)[kept] for end in ("subject", "object")]
    names = (ends[0], ends[1], predicate[kept])
    best_first = -confidence[kept]
    # Of equally confident ones the first counts; lexsort is stable.
    order = np.lexsort((best_first, names[2], names[1], names[0], row))
    same = np.ones(len(kept) - 1, bool)
    for values in (row, *names):
        same &= values[order][1:] == values[order][:-1]
    reason[kept[order[1:][same]]] = REPEATED
    distinct = order[np.concatenate([[True], ~same])]
    ranked = distinct[
        np.lexsort((*(values[distinct] for values in reversed(names)), best_first[distinct], row[distinct]))
    ]
    starts = np.searchsorted(row[ranked], row[ranked], side="left")
    reason[kept[ranked[np.arange(len(ranked)) - starts >= most[row[ranked]]]]] = OVER_PER_IMAGE
