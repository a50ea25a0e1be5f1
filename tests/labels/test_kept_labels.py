"""Labels judged as columns, and permanent numbers made from columns, are those of loops over images and labels."""

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from run_builder import relation

from pipeline.labels.audit_sample import permanent_numbers, permanent_numbers_of
from pipeline.labels.kept_labels import (
    OVER_PER_IMAGE,
    REPEATED,
    UNREADABLE,
    ChoiceSettings,
    judged_columns,
    judged_labels,
)
from pipeline.labels.verdicts import JudgedRelation
from storage.errors import FatalError
from storage.tables import CANDIDATES, RELATIONS
from tagger.english.predicates import canonical
from tagger.labelling.label_choice import Judged, NotKept
from tagger.pair import Pair
from tagger.relation import Relation

PREDICATES = ("riding", "rides", "is riding", "on", "on top of", "the", "next to", "hold")
"""Several words for one canonical predicate, and one that has none."""


def drawn(seed: int, **values: Any) -> tuple[pa.Table, pa.Table]:
    """Labels of 120 images with few boxes, predicates and scores, so they are often equal; and their candidates."""
    generator = np.random.default_rng(seed)
    images, candidates = [], []
    for image_id in generator.permutation(120).tolist():
        labels = []
        for _ in range(int(generator.integers(0, 14))):
            proposed = bool(generator.random() < 0.6)
            score = float(generator.integers(0, 12)) / 11
            labels.append(
                {
                    "subject": int(generator.integers(0, 3)), "object": int(generator.integers(0, 3)), "score": score,
                    "predicate": str(generator.choice(PREDICATES)), "proposed": proposed, "triplet": 0, "caption": 0,
                    "calibrated": score * 0.9, "probability": score * 0.8,
                    "posterior": float(generator.random()) if proposed else None, **values,
                }
            )  # fmt: skip
        images.append({"image_id": image_id, "tagger": "t", "relations": labels})
        pairs = [
            {name: label[name] for name in ("subject", "predicate", "object")}
            | {"triplet": 0, "ambiguity": 2, "mention": place // 2, "prior": 0.5, "support": 1}
            for place, label in enumerate(labels)
            if label["proposed"]
        ]
        candidates.append({"image_id": image_id, "pairs": pairs})
    return pa.Table.from_pylist(images, schema=RELATIONS), pa.Table.from_pylist(candidates, schema=CANDIDATES)


def judged_one_by_one(relations: pa.Table, candidates: pa.Table, choice: ChoiceSettings) -> list[Judged]:
    """The verdicts by loops: those of the tagger's rules, then names, repetitions and the limit of each image."""
    pairs = {row["image_id"]: [Pair(**pair) for pair in row["pairs"]] for row in candidates.to_pylist()}
    names = [field.name for field in fields(Relation)]
    fitted = choice.fitted_calibration()
    every: list[Judged] = []
    for row in relations.to_pylist():
        labels = [Relation(**{name: label[name] for name in names}) for label in row["relations"]]
        if fitted is not None:
            labels = [replace(r, calibrated=fitted.probability(canonical(r.predicate), r.score)) for r in labels]
        judged = choice.choice().judge(labels, pairs[row["image_id"]])
        judged = [Judged(round(one.confidence, 6), one.reason) for one in judged]
        best: dict[tuple[int, int, str], int] = {}
        for place, label in enumerate(labels):
            name = label.subject, label.object, canonical(label.predicate)
            if judged[place].reason is None and not name[2]:
                judged[place] = judged[place]._replace(reason=UNREADABLE)
            if judged[place].reason is not None:
                continue
            first = best.setdefault(name, place)
            better = first if judged[first].confidence >= judged[place].confidence else place
            for each in {first, place} - {better}:
                judged[each] = judged[each]._replace(reason=REPEATED)
            best[name] = better
        for name in sorted(best, key=lambda name: (-judged[best[name]].confidence, *name))[choice.max_relations :]:
            judged[best[name]] = judged[best[name]]._replace(reason=OVER_PER_IMAGE)
        every += judged
    return every


@pytest.mark.parametrize("settings", [
    {},
    {"confidence": "score", "threshold": 0.0, "max_relations": 3},
    {"confidence": "calibrated", "thresholds": {"riding": 0.7, "on top of": 0.1}},
    {"rule": "posterior", "max_relations": 2}, {"rule": "best"}, {"per_pair": 1},
    {"confidence": "calibrated", "calibration": {"": (1.0, -0.5), "ride": (0.7, 0.1)}},
])  # fmt: skip
@pytest.mark.parametrize("seed", range(3))
def test_columns_hold_what_judging_image_by_image_finds(settings, seed):
    relations, candidates = drawn(seed)
    choice = ChoiceSettings.model_validate(settings)
    wanted = judged_one_by_one(relations, candidates, choice)
    found = judged_columns(relations, candidates, choice)
    assert found.reason.to_pylist() == [one.reason for one in wanted]
    assert found.confidence.tolist() == [one.confidence for one in wanted]
    assert len(set(found.reason.to_pylist())) > 1
    by_image = judged_labels(relations, candidates, choice)
    assert [*by_image] == relations["image_id"].to_pylist()
    assert [one for of_image in by_image.values() for one in of_image] == wanted


@pytest.mark.parametrize(
    ("settings", "lacking"),
    [({}, "probability"), ({"confidence": "calibrated"}, "calibrated"), ({"rule": "posterior"}, "posterior")],
)
def test_a_value_that_the_labels_lack_is_named(settings, lacking):
    tables = drawn(0, **{lacking: None})
    for more in ({}, {"per_pair": 2}):
        with pytest.raises(FatalError, match=f"shard.*{lacking}"):
            judged_columns(*tables, ChoiceSettings.model_validate(settings | more))


@pytest.mark.parametrize("more", [{}, {"per_pair": 100}])
def test_a_threshold_holds_for_every_wording_of_its_predicate(more):
    relations, candidates = drawn(0)
    choice = ChoiceSettings.model_validate({"threshold": 0.0, "thresholds": {"rides": 1.0}} | more)
    names = [label["predicate"] for row in relations.to_pylist() for label in row["relations"]]
    below = judged_columns(relations, candidates, choice).reason.to_pylist()
    assert {name for name, reason in zip(names, below, strict=True) if reason == NotKept.BELOW_THRESHOLD} == {
        "riding", "rides", "is riding",
    }  # fmt: skip
    with pytest.raises(ValueError, match="'rides' and 'riding' are one predicate"):
        ChoiceSettings(thresholds={"rides": 0.1, "riding": 0.2})


@pytest.mark.parametrize("more", [{}, {"per_pair": 100}])
@pytest.mark.parametrize("confidence", [0.35, 0.7, 0.9])
def test_a_label_whose_shown_confidence_is_the_threshold_is_kept(confidence, more):
    # The table holds a number of 32 bits just below it.
    row = {"image_id": 1, "tagger": "t", "relations": [relation(0, "ride", 1, confidence)]}
    relations = pa.Table.from_pylist([row], schema=RELATIONS)
    choice = ChoiceSettings.model_validate({"confidence": "score", "threshold": confidence} | more)
    found = judged_columns(relations, CANDIDATES.empty_table(), choice)
    assert (found.confidence.tolist(), found.reason.to_pylist()) == ([confidence], [None])


def test_a_recipe_that_names_a_rule_or_a_measure_keeps_its_former_defaults():
    def made(**settings: Any) -> tuple[str, str, float]:
        choice = ChoiceSettings.model_validate(settings)
        return choice.confidence, choice.rule, choice.threshold

    assert made() == ("probability", "all", 0.45)
    assert made(rule="best") == ("score", "best", 0.2)
    assert made(confidence="calibrated") == ("calibrated", "all", 0.2)
    assert made(rule="posterior", confidence="calibrated", threshold=0.1) == ("calibrated", "posterior", 0.1)
    with pytest.raises(ValueError, match="already includes the posterior"):
        made(rule="posterior", confidence="probability")


def test_no_labels_are_no_columns():
    found = judged_columns(RELATIONS.empty_table(), CANDIDATES.empty_table(), ChoiceSettings())
    assert (len(found.confidence), len(found.reason)) == (0, 0)


def test_numbers_made_from_columns_are_those_of_the_relations():
    generator = np.random.default_rng(0)
    sides = [
        *(generator.random(388) * 700).tolist(), 0.005, 0.015, 2.675, -0.001, 1.0, 1e15, 1e16, 640.0, 7e-5, 3.1, 4.0,
        -0.0,
    ]  # fmt: skip
    boxes = np.array(sides).reshape(-1, 4).astype(np.float32)
    subject, object_ = generator.integers(0, len(boxes), (2, 300))
    digests = generator.choice(["a" * 64, 'quote " and ünicode', "b\\c"], 300).tolist()
    predicates = generator.choice(["ride", "next to", "über"], 300).tolist()
    relations = [
        JudgedRelation(digest, tuple(boxes[s].tolist()), tuple(boxes[o].tolist()), predicate)  # type: ignore[arg-type]
        for digest, s, o, predicate in zip(digests, subject, object_, predicates, strict=True)
    ]
    found = permanent_numbers_of(digests, boxes, subject, object_, [each.predicate for each in relations], 5)
    assert found.tolist() == permanent_numbers(relations, 5).tolist()
