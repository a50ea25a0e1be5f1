"""Target pairs of a network, and the label texts of a step."""

from collections import Counter

import numpy as np
import pytest

from pipeline.training.sample import SampleBox, SampleRelation, TrainingSample
from pipeline.training.settings import TrainingSettings
from pipeline.training.task import (
    StepTexts,
    TargetPair,
    detection_pairs,
    labelled_pairs,
    normalised_boxes,
    tagging_pairs,
)
from pipeline.training.vocabulary import LabelCounts, Vocabulary
from tests.training.conftest import TINY, sample, statistics


def image(xs, relations=(), uncertain=()):
    boxes = tuple(SampleBox("thing", float(x), 10.0, 10.0, 20.0) for x in xs)
    return TrainingSample(1, "made", 100, 50, boxes, tuple(relations), tuple(uncertain))


def test_relations_of_a_pair_are_merged_and_the_surest_pair_comes_first():
    found = labelled_pairs(
        image(
            [0, 20, 40],
            [SampleRelation(0, 1, "ride", 0.4), SampleRelation(1, 2, "hold", 0.9), SampleRelation(0, 1, "on", 0.6)],
        )
    )
    assert found == [TargetPair(1, 2, {"hold": 0.9}), TargetPair(0, 1, {"ride": 0.4, "on": 0.6})]


def test_a_box_without_a_relation_is_paired_with_itself_and_related_to_nothing():
    found = detection_pairs(image([0, 20, 80, 95], [SampleRelation(0, 1, "ride")]), limit=10)
    assert found == [TargetPair(0, 1, {"ride": 1.0}), TargetPair(2, 2), TargetPair(3, 3)]


def test_an_uncertain_pair_is_neither_a_positive_nor_a_negative():
    ride, unsure = SampleRelation(0, 1, "ride"), [SampleRelation(0, 1, "on", 0.2), SampleRelation(1, 2, "on", 0.3)]
    labelled = [TargetPair(0, 1, {"ride": 1.0}), TargetPair(1, 2, known=False)]
    assert detection_pairs(image([0, 20, 80, 95], [ride], unsure), limit=10) == [*labelled, TargetPair(3, 3)]
    assert labelled_pairs(image([0, 20, 80], [ride], unsure), limit=1) == labelled[:1]
    negatives = tagging_pairs(image([0, 20, 40], [ride], unsure), 10, np.random.default_rng(0))[2:]
    assert (1, 2) not in {(pair.subject, pair.object) for pair in negatives}


def test_an_image_without_kept_relations_says_nothing_of_predicates():
    alone = [TargetPair(0, 0, known=False), TargetPair(1, 1, known=False)]
    assert detection_pairs(image([5, 60]), limit=10) == alone
    unsure = [SampleRelation(2, 3, "on", 0.2)]
    assert detection_pairs(image([5, 60, 70, 80], [], unsure), limit=10) == [TargetPair(2, 3, known=False), *alone]


def test_the_network_is_never_asked_for_more_pairs_than_it_has():
    relations = [SampleRelation(0, i, "near", i / 10) for i in range(1, 6)]
    found = detection_pairs(image(range(0, 90, 10), relations), limit=3)
    assert [pair.object for pair in found] == [5, 4, 3]


def test_the_tagger_is_asked_for_negatives_too():
    found = tagging_pairs(image([0, 20, 40], [SampleRelation(0, 1, "ride")]), 10, np.random.default_rng(0))
    assert found[0] == TargetPair(0, 1, {"ride": 1.0})
    assert {(p.subject, p.object) for p in found[1:]} == {(0, 2), (1, 0), (1, 2), (2, 0), (2, 1)}
    assert all(p.known and not p.predicates for p in found[1:])
    assert len(tagging_pairs(image(range(0, 90, 10)), 7, np.random.default_rng(0))) == 7


def test_boxes_are_shares_of_the_image():
    assert normalised_boxes(image([0, 30]))[1].tolist() == pytest.approx([0.35, 0.4, 0.1, 0.4])
    assert normalised_boxes(image([95]))[0].tolist() == pytest.approx([0.975, 0.4, 0.05, 0.4])


def test_present_names_are_kept_others_fill_the_budget_and_a_small_vocabulary_is_used_whole():
    def draw(names: LabelCounts, present: set[str], budget: int) -> list[str]:
        return names.draw(present, budget, np.random.default_rng(0))

    many = LabelCounts.of(Counter({f"n{i:02d}": i + 1 for i in range(50)}))
    drawn = draw(many, {"n00", "n01"}, 10)
    assert drawn[:2] == ["n00", "n01"] and len(drawn) == len(set(drawn)) == 10
    assert draw(many, {"n00", "n01"}, 10) == drawn
    assert draw(many, {"n01", "n02", "n03"}, 2) == ["n01", "n02", "n03"], "more than the budget"
    assert draw(LabelCounts.of(Counter({"dog": 3, "cat": 3, "person": 9})), {"cat"}, 3) == ["person", "cat", "dog"]


def test_frequent_names_are_drawn_more_often():
    names = LabelCounts.of(Counter({f"n{i:02d}": 100 if i < 5 else 1 for i in range(40)}))
    drawn = Counter(n for seed in range(200) for n in names.draw((), 5, np.random.default_rng(seed)))
    assert min(drawn[f"n{i:02d}"] for i in range(5)) > max(drawn[f"n{i:02d}"] for i in range(5, 40))


def test_the_vocabulary_knows_mirror_images_and_survives_its_file(tmp_path):
    vocabulary = Vocabulary.of([statistics([sample(1), sample(2), sample(3)])], "predicate")
    assert vocabulary.objects.names == ("dog", "kite", "person")
    assert dict(zip(vocabulary.predicates.names, vocabulary.predicates.counts, strict=True)) == {
        "hold": 2, "left of": 2, "right of": 2,
    }  # fmt: skip
    vocabulary.save(tmp_path / "v.json", image_size=64)
    assert Vocabulary.load(tmp_path / "v.json") == vocabulary


@pytest.mark.parametrize(("soft", "expected"), [(True, 0.4), (False, 1.0)])
def test_soft_targets_are_the_confidences_of_the_labels(soft, expected):
    samples = [sample(1)]
    settings = TrainingSettings.model_validate(TINY)
    texts = StepTexts(Vocabulary.of([statistics(samples)], "predicate"), settings, samples, np.random.default_rng(0))
    predicate = samples[0].relations[0].predicate
    pairs = [TargetPair(subject=0, object=1, predicates={predicate: 0.4})]
    target = texts.target(samples[0], pairs, soft=soft)
    assert target.predicates[0, texts.predicates.index(predicate)].item() == pytest.approx(expected)
    assert target.predicates.sum().item() == pytest.approx(expected)
