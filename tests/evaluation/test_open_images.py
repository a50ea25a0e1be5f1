"""Open Images: what works on scene graphs report, what RLIPv2's evaluator makes of it, and the challenge's score."""

from dataclasses import replace

import numpy as np
import pytest
from relation_rows import A, B, C, D, half, relations, truths

from pipeline.evaluation.benchmark import Options, hico_det, open_images
from pipeline.evaluation.open_images import OpenImagesRules, match_challenge, match_open_images
from pipeline.evaluation.ranking import mean_of

OFFICIAL = OpenImagesRules(official=True)


def mean(precision) -> float:
    return mean_of(precision.values())


def test_precision_is_of_predicates_and_weighted_by_their_truths_but_of_triplets_officially():
    # Predicate 0: a right relation of one triplet, then a wrong and a right one of another. Predicate 1: never found.
    truth = truths([(0, A, B, 0, 1, 0), (0, A, C, 0, 2, 0), (0, A, D, 0, 3, 1)])
    predicted = relations([(0, A, B, 0, 1, 0, 0.9), (0, A, half(D), 0, 2, 0, 0.8), (0, A, C, 0, 2, 0, 0.7)])
    found = match_open_images(predicted, truth).scores()
    assert found.relations == pytest.approx({0: 1 / 2 + 2 / 3 / 2, 1: 0.0})
    assert found.figures["wmap_rel"] == pytest.approx((2 * (1 / 2 + 1 / 3) + 0) / 3)
    assert mean(found.relations) == pytest.approx((1 / 2 + 1 / 3) / 2)
    official = match_open_images(predicted, truth, OFFICIAL).scores()
    assert [*official.relations.values()] == pytest.approx([1.0, 0.5, 0.0])
    assert official.figures["wmap_rel"] == pytest.approx((1 + 0.5 + 0) / 3)
    # Where duplicates are kept, published results are PySGG's, which go beside PySGG's rules.
    options = Options(objects=("a", "b", "c", "d"), resamples=0)
    beside, alone = (
        open_images(predicted, truth, ("on", "at"), replace(options, suppression=each)).figures
        for each in (True, False)
    )
    assert any(figure.official for figure in beside) and not any(figure.official for figure in alone)


def test_wrong_relations_on_images_without_truth_count_but_not_officially():
    truth = truths([(0, A, B, 0, 1, 0)], images=2)
    predicted = relations([(0, A, B, 0, 1, 0, 0.5), (1, A, B, 0, 1, 0, 0.9)], images=2)
    found, official = (match_open_images(predicted, truth, rules).scores() for rules in (None, OFFICIAL))
    assert (mean(found.relations), mean(official.relations)) == pytest.approx((0.5, 1.0))
    # Phrases there are wrong in both.
    assert (mean(found.phrases), mean(official.phrases)) == pytest.approx((0.5, 0.5))


def test_classes_that_are_triplets_have_their_names():
    truth = truths([(0, A, B, 0, 1, 0), (0, A, [np.nan] * 4, 0, -1, 1)])  # the second has no object
    predicted, options = relations([(0, A, B, 0, 1, 0, 0.9)]), Options(objects=("man", "cup"), resamples=0)
    found = hico_det(predicted, truth, ("hold", "walk"), options).classes
    assert {each.name for each in found} == {"man walk nothing", "man hold cup"}
    official = open_images(predicted, truth.take(truth.predicates == 0), ("hold",), replace(options, official=True))
    assert [each.name for each in official.classes] == ["man hold cup"]


def test_a_phrase_has_its_own_match_but_officially_that_of_another():
    # By triplets: both of the first, then the second. By scores: first, second, first.
    truth = truths([(0, A, B, 0, 1, 0), (0, C, D, 0, 2, 0)])
    predicted = relations(
        [
            (0, A, B, 0, 1, 0, 0.9),
            (0, C, D, 0, 2, 0, 0.8),
            (0, [400.0, 10, 440, 90], [450.0, 10, 490, 90], 0, 1, 0, 0.7),
        ]
    )
    found, official = (match_open_images(predicted, truth, rules).scores() for rules in (None, OFFICIAL))
    assert mean(found.phrases) == pytest.approx(1.0)
    # The second phrase gets the matches of the third, which has none, and the third those of the second.
    assert [*official.phrases.values()] == pytest.approx([1.0, 0.0])
    assert official.figures["score_wtd"] == pytest.approx(0.2 + 0.4 + 0.4 / 2)


def test_duplicates_of_a_triplet_are_suppressed_and_duplicates_of_phrases_too():
    truth = truths([(0, A, B, 0, 1, 0)])
    twice = relations([(0, A, B, 0, 1, 0, 0.9), (0, A, B, 0, 1, 0, 0.8), (0, B, A, 0, 1, 0, 0.95)])
    found = match_open_images(twice, truth).scores()
    # The relation from B to A stays, and is wrong. As a phrase it is right, and suppresses the other.
    assert mean(found.relations) == pytest.approx(0.5)
    assert mean(found.phrases) == pytest.approx(1.0)
    kept = match_open_images(twice, truth, OpenImagesRules(suppression=None)).scores()
    assert mean(kept.phrases) == pytest.approx(1.0)


def test_two_predicates_of_a_pair_count_where_duplicates_are_kept():
    truth = truths([(0, A, B, 0, 1, 0), (1, A, B, 0, 1, 2)], images=2)
    rows = [(0, A, B, 0, 1, predicate, 0.9 - predicate / 10) for predicate in range(3)]
    predicted = relations([*rows, (1, A, B, 0, 1, 2, 0.6)], images=2)
    kept = OpenImagesRules(suppression=None)
    assert mean(match_open_images(predicted, truth, kept).scores().relations) == pytest.approx(1.0)
    assert mean(match_open_images(predicted, truth).scores().relations) == pytest.approx(0.75)


def test_only_fifty_relations_count_for_recall_and_a_hundred_for_precision():
    rows = [(0, C, [300.0, 10, 340 + place, 90], 0, 1, 1, 1 - place / 200) for place in range(60)]
    predicted = relations([*rows, (0, A, B, 0, 1, 0, 0.1)])
    found = match_open_images(predicted, truths([(0, A, B, 0, 1, 0)]), OpenImagesRules(suppression=None)).scores()
    assert (found.recall, mean(found.relations)) == (0.0, 1.0)


def test_the_challenge_ignores_what_nobody_checked():
    truth = truths([(0, A, B, 0, 1, 0)], images=2)
    wrong = [(0, C, D, 7, 8, 0, 0.9), (0, B, A, 1, 0, 0, 0.8), (1, A, B, 0, 1, 0, 0.7)]
    predicted = relations([wrong[0], wrong[1], (0, A, B, 0, 1, 0, 0.5), wrong[2]], images=2)
    # Classes 7 and 8 are unknown in the image, and the second image has no classes. From B to A is wrong.
    found = match_challenge(predicted, truth)
    assert found.relations.precision() == found.phrases.precision() == pytest.approx({0: 0.5})
    # In one ranking, whatever the types: a wrong relation, then the right one.
    assert found.figures() == pytest.approx(
        {"challenge": 0.4 * 0.5 + 0.2 + 0.4 * 0.5, "weighted_rel": 0.5, "weighted_phr": 0.5}
    )
    # Class 8 is absent for certain.
    absent = match_challenge(predicted, truth, verified=np.array([[0, 8]]))
    assert absent.relations.precision() == pytest.approx({0: 1 / 3})


def test_the_challenge_has_no_pixels_at_both_ends():
    # With them, the IoU would be 0.5 exactly.
    truth = truths([(0, [0.0, 0, 9, 9], B, 0, 1, 0)])
    predicted = relations([(0, [0.0, 0, 9, 4], B, 0, 1, 0, 0.5)])
    assert match_open_images(predicted, truth).scores().figures["wmap_rel"] == 1.0
    assert match_challenge(predicted, truth).relations.precision() == {0: 0.0}


def test_nothing_predicted_scores_zero_and_nothing_true_scores_nan():
    truth = truths([(0, A, B, 0, 1, 0)])
    for rules in (None, OFFICIAL):
        found = match_open_images(relations([]), truth, rules).scores()
        assert (found.figures["score_wtd"], found.recall) == (0.0, 0.0) or rules is OFFICIAL
        assert mean(found.relations) == mean(found.phrases) == 0.0
        nothing = match_open_images(relations([(0, A, B, 0, 1, 0, 0.5)]), truths([]), rules).scores()
        assert np.isnan(nothing.figures["score_wtd"])
    assert match_challenge(relations([]), truth).figures()["challenge"] == 0.0
    assert np.isnan(match_challenge(relations([]), truths([])).figures()["challenge"])
