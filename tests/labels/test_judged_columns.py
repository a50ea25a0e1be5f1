"""Labels judged as columns, and permanent numbers made from columns, are those of the rules that judge image by image."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.labels.audit_sample import permanent_numbers, permanent_numbers_of
from pipeline.labels.judged_columns import judged_columns
from pipeline.labels.kept_labels import ChoiceSettings, judged_labels
from pipeline.labels.verdicts import JudgedRelation
from storage.errors import FatalError
from storage.tables import CANDIDATES, RELATIONS

PREDICATES = ("riding", "rides", "is riding", "on", "on top of", "the", "next to", "hold")
"""Several words for one canonical predicate, and one that has none."""


def drawn(seed: int, **values: Any) -> tuple[pa.Table, pa.Table]:
    """Labels of 120 images with few boxes, predicates and scores, so that they are often equal; and their candidates."""
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
                    "calibrated": score * 0.9, "posterior": float(generator.random()) if proposed else None, **values,
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


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"threshold": 0.0, "max_relations": 3},
        {"confidence": "calibrated", "thresholds": {"riding": 0.7, "ride": 0.1}},
        {"rule": "posterior", "max_relations": 2},
        {"rule": "best"},
        {"per_pair": 1},
        {"confidence": "calibrated", "calibration": {"": (1.0, -0.5), "ride": (0.7, 0.1)}},
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_columns_hold_what_judging_image_by_image_finds(settings: dict[str, Any], seed: int) -> None:
    relations, candidates = drawn(seed)
    choice = ChoiceSettings.model_validate(settings)
    wanted = [one for of_image in judged_labels(relations, candidates, choice).values() for one in of_image]
    found = judged_columns(relations, candidates, choice)
    assert found.reason.to_pylist() == [one.reason for one in wanted]
    assert found.confidence.tolist() == [one.confidence for one in wanted]
    assert len(set(found.reason.to_pylist())) > 1


@pytest.mark.parametrize(
    ("settings", "lacking"), [({"confidence": "calibrated"}, "calibrated"), ({"rule": "posterior"}, "posterior")]
)
def test_a_value_that_the_labels_lack_is_named(settings: dict[str, Any], lacking: str) -> None:
    tables = drawn(0, **{lacking: None})
    for judge in (judged_labels, judged_columns):
        with pytest.raises(FatalError, match=f"shard.*{lacking}"):
            judge(*tables, ChoiceSettings.model_validate(settings))


def test_no_labels_are_no_columns() -> None:
    found = judged_columns(RELATIONS.empty_table(), CANDIDATES.empty_table(), ChoiceSettings())
    assert (len(found.confidence), len(found.reason)) == (0, 0)


def test_numbers_made_from_columns_are_those_of_the_relations() -> None:
    generator = np.random.default_rng(0)
    sides = [
        *(generator.random(388) * 700).tolist(),
        0.005,
        0.015,
        2.675,
        -0.001,
        1.0,
        1e15,
        1e16,
        640.0,
        7e-5,
        3.1,
        4.0,
        -0.0,
    ]
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
