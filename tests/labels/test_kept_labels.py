"""Labels judged as columns, and permanent numbers made from columns, are those of loops over images and labels."""

from collections import Counter
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from run_builder import relation

from pipeline.labels.audit_sample import permanent_numbers, permanent_numbers_of
from pipeline.labels.kept_labels import ChoiceSettings, Judged, NotKept, judged_labels
from pipeline.labels.verdicts import JudgedRelation
from storage.errors import FatalError
from storage.tables import CANDIDATES, RELATIONS
from tagger.english.predicates import canonical
from tagger.pair import Pair
from tests.tagger.test_posteriors import PAIRS

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
    """`judged_labels` by loops: by confidence and mention, then names, repetitions, and limits per pair and image."""
    pairs = {row["image_id"]: row["pairs"] for row in candidates.to_pylist()}
    fitted = choice.fitted_calibration()
    thresholds = {canonical(name): least for name, least in choice.thresholds.items()}
    every: list[Judged] = []
    for row in relations.to_pylist():
        labels, judged = row["relations"], []
        exact = [
            r[choice.confidence] if fitted is None else fitted.probability(r["predicate"], r["score"]) for r in labels
        ]
        if choice.rule == "posterior":
            exact = [value * (label["posterior"] or 0.0) for value, label in zip(exact, labels, strict=True)]
        names = [(label["subject"], label["predicate"], label["object"]) for label in labels]
        weights = {n: (-(r["posterior"] or 0.0), -own, n) for n, r, own in zip(names, labels, exact, strict=True)}
        likeliest: set[tuple[int, str, int]] = set()
        for mention in {pair["mention"] for pair in pairs[row["image_id"]]}:
            of_mention = [pair for pair in pairs[row["image_id"]] if pair["mention"] == mention]
            members = [(pair["subject"], pair["predicate"], pair["object"]) for pair in of_mention]
            number = max(1, round(sum(pair["prior"] for pair in of_mention)))
            likeliest.update(sorted((n for n in members if n in weights), key=weights.__getitem__)[:number])
        for name, value in zip(names, exact, strict=True):
            is_below = round(value, 6) < thresholds.get(canonical(name[1]), choice.threshold)
            reason = NotKept.BELOW_THRESHOLD if is_below else None
            reason = NotKept.LESS_LIKELY if choice.rule == "best" and name not in likeliest else reason
            judged.append(Judged(round(value, 6), reason))
        best: dict[tuple[int, int, str], int] = {}
        for place, label in enumerate(labels):
            name = label["subject"], label["object"], canonical(label["predicate"])
            if judged[place].reason is None and not name[2]:
                judged[place] = judged[place]._replace(reason=NotKept.UNREADABLE)
            if judged[place].reason is not None:
                continue
            first = best.setdefault(name, place)
            better = first if judged[first].confidence >= judged[place].confidence else place
            for each in {first, place} - {better}:
                judged[each] = judged[each]._replace(reason=NotKept.REPEATED)
            best[name] = better
        ranked = sorted(best, key=lambda name: (-judged[best[name]].confidence, *name))
        counts: Counter[tuple[int, int]] = Counter()
        for name in ranked if choice.per_pair is not None else ():
            counts[name[:2]] += 1
            if counts[name[:2]] > choice.per_pair:
                judged[best[name]] = judged[best[name]]._replace(reason=NotKept.OVER_PER_PAIR)
        left = [name for name in ranked if judged[best[name]].reason is None]
        for name in left[choice.max_relations :]:
            judged[best[name]] = judged[best[name]]._replace(reason=NotKept.OVER_PER_IMAGE)
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
    found = judged_labels(relations, candidates, choice)
    assert found.reason.to_pylist() == [one.reason for one in wanted]
    assert found.confidence.tolist() == [one.confidence for one in wanted]
    assert len(set(found.reason.to_pylist())) > 1
    by_image = dict(found.by_image())
    assert [*by_image] == relations["image_id"].to_pylist()
    assert [one for of_image in by_image.values() for _, one in of_image] == wanted


@pytest.mark.parametrize(
    ("settings", "lacking"),
    [({}, "probability"), ({"confidence": "calibrated"}, "calibrated"), ({"rule": "posterior"}, "posterior")],
)
def test_a_value_that_the_labels_lack_is_named(settings, lacking):
    tables = drawn(0, **{lacking: None})
    for more in ({}, {"per_pair": 2}):
        with pytest.raises(FatalError, match=f"shard.*{lacking}"):
            judged_labels(*tables, ChoiceSettings.model_validate(settings | more))


@pytest.mark.parametrize("more", [{}, {"per_pair": 100}])
def test_a_threshold_holds_for_every_wording_of_its_predicate(more):
    relations, candidates = drawn(0)
    choice = ChoiceSettings.model_validate({"threshold": 0.0, "thresholds": {"rides": 1.0}} | more)
    names = [label["predicate"] for row in relations.to_pylist() for label in row["relations"]]
    below = judged_labels(relations, candidates, choice).reason.to_pylist()
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
    found = judged_labels(relations, CANDIDATES.empty_table(), choice)
    assert (found.confidence.tolist(), found.reason.to_pylist()) == ([confidence], [None])


def scored(subject: int, predicate: str, object_: int, score: float, posterior: float | None = 1.0) -> dict[str, Any]:
    own = {"posterior": posterior, "probability": score, "calibrated": score / 2, "proposed": True, "triplet": 0}
    return {"subject": subject, "predicate": predicate, "object": object_, "score": score, **own}


LABELS = [
    scored(0, "ride", 2, 0.8, 0.9), scored(1, "ride", 2, 0.3, 0.1), scored(0, "next to", 3, 0.5, 0.9),
    scored(1, "next to", 3, 0.4, 0.8), scored(2, "next to", 3, 0.3, 0.3),
]  # fmt: skip


def judged(labels: list[dict[str, Any]] = LABELS, pairs: list[Pair] = PAIRS, **settings: Any) -> list[Judged]:
    relations = pa.Table.from_pylist([{"image_id": 1, "relations": labels}], schema=RELATIONS)
    row = {"image_id": 1, "pairs": [asdict(pair) for pair in pairs]}
    candidates = pa.Table.from_pylist([row], schema=CANDIDATES)
    return [*judged_labels(relations, candidates, ChoiceSettings(**{"confidence": "probability"} | settings)).each()]


def kept(labels: list[dict[str, Any]] = LABELS, **settings: Any) -> list[tuple[int, str, int]]:
    every = zip(labels, judged(labels, **settings), strict=True)
    return [(r["subject"], r["predicate"], r["object"]) for r, one in every if one.reason is None]


def test_best_keeps_as_many_of_a_mention_as_it_means():
    assert kept(rule="best", threshold=0.3) == [(0, "ride", 2), (0, "next to", 3), (1, "next to", 3)]


def test_most_labels_of_a_pair():
    both = [scored(0, "on", 1, 0.4), scored(0, "ride", 1, 0.9), scored(1, "on", 0, 0.3)]
    assert kept(both, threshold=0.3, per_pair=1) == [(0, "ride", 1), (1, "on", 0)]
    # Neither a label without a predicate nor one in other words takes the place of another.
    others = [scored(0, "the", 1, 0.95), scored(0, "riding", 1, 0.9), *both]
    assert kept(others, threshold=0.3, per_pair=2) == [(0, "riding", 1), (0, "on", 1), (1, "on", 0)]


def test_a_confidence_that_is_no_number_reaches_no_threshold():
    assert kept([scored(0, "on", 1, float("nan"))], threshold=0.0) == []


@pytest.mark.parametrize("rule", ["best", "posterior"])
def test_labels_without_posteriors_are_not_taken_for_unlikely_ones(rule):
    with pytest.raises(FatalError, match="no posteriors"):
        judged([scored(0, "on", 1, 0.9, None)], [], confidence="score", rule=rule)
    [found] = judged([scored(0, "on", 1, 0.9, None) | {"proposed": False}], [], confidence="score", rule=rule)
    assert found.reason is not None


def test_every_label_that_is_not_kept_has_the_reason():
    labels = [*LABELS, scored(0, "above", 2, 0.5), scored(0, "on", 2, 0.1)]
    pairs = [*PAIRS, Pair(0, 2, "above", 2, 1, mention=2, prior=1.0), Pair(0, 2, "on", 3, 1, mention=3, prior=1.0)]
    assert [one.reason for one in judged(labels, pairs, rule="best", threshold=0.45, per_pair=1)] == [
        None, NotKept.LESS_LIKELY, None, NotKept.BELOW_THRESHOLD, NotKept.LESS_LIKELY, NotKept.OVER_PER_PAIR,
        NotKept.BELOW_THRESHOLD,
    ]  # fmt: skip


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
    found = judged_labels(RELATIONS.empty_table(), CANDIDATES.empty_table(), ChoiceSettings())
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
