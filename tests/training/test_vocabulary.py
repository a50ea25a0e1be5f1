"""Choice of the label texts of a step."""

from collections import Counter

import numpy as np
import pytest

from pipeline.training.settings import TrainingSettings
from pipeline.training.task import StepTexts, TargetPair
from pipeline.training.vocabulary import Names, Vocabulary
from tests.training.conftest import TINY, sample, statistics


def test_a_small_vocabulary_is_used_whole_in_a_fixed_order():
    names = Names.of(Counter({"dog": 3, "cat": 3, "person": 9}))
    assert names.draw({"cat"}, 3, np.random.default_rng(0)) == ["person", "cat", "dog"]


def test_present_names_are_kept_and_others_fill_the_budget():
    names = Names.of(Counter({f"n{i:02d}": i + 1 for i in range(50)}))
    drawn = names.draw({"n00", "n01"}, 10, np.random.default_rng(0))
    assert drawn[:2] == ["n00", "n01"]
    assert len(drawn) == len(set(drawn)) == 10
    assert names.draw({"n00", "n01"}, 10, np.random.default_rng(0)) == drawn


def test_more_present_names_than_the_budget_are_all_kept():
    names = Names.of(Counter({f"n{i}": 1 for i in range(9)}))
    assert names.draw({"n1", "n2", "n3"}, 2, np.random.default_rng(0)) == ["n1", "n2", "n3"]


def test_frequent_names_are_drawn_more_often():
    names = Names.of(Counter({f"n{i:02d}": 100 if i < 5 else 1 for i in range(40)}))
    drawn = Counter(n for seed in range(200) for n in names.draw((), 5, np.random.default_rng(seed)))
    assert min(drawn[f"n{i:02d}"] for i in range(5)) > max(drawn[f"n{i:02d}"] for i in range(5, 40))


def test_the_vocabulary_knows_mirror_images_and_survives_its_file(tmp_path):
    vocabulary = Vocabulary.of([statistics([sample(1), sample(2), sample(3)])], "predicate")
    assert vocabulary.objects.names == ("dog", "kite", "person")
    assert dict(zip(vocabulary.predicates.names, vocabulary.predicates.counts, strict=True)) == {
        "hold": 2,
        "left of": 2,
        "right of": 2,
    }
    vocabulary.save(tmp_path / "v.json", image_size=64)
    assert Vocabulary.load(tmp_path / "v.json") == vocabulary


@pytest.mark.parametrize(("soft", "expected"), [(True, 0.4), (False, 1.0)])
def test_soft_targets_are_the_confidences_of_the_labels(soft: bool, expected: float):
    samples = [sample(1)]
    settings = TrainingSettings.model_validate(TINY)
    texts = StepTexts(Vocabulary.of([statistics(samples)], "predicate"), settings, samples, np.random.default_rng(0))
    predicate = samples[0].relations[0].predicate
    pairs = [TargetPair(subject=0, object=1, predicates={predicate: 0.4})]
    target = texts.target(samples[0], pairs, soft=soft)
    assert target.predicates[0, texts.predicates.index(predicate)].item() == pytest.approx(expected)
    assert target.predicates.sum().item() == pytest.approx(expected)
