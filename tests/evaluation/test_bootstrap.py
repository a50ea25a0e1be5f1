"""Intervals by resampling images: what they cover, and that kept matches give what scoring again would."""

import numpy as np
import pytest

from benchmarks.evaluation import synthetic
from pipeline.evaluation.bootstrap import bootstrap, resampled
from pipeline.evaluation.hico import HicoMatches, HicoRules, Triplet, match_hico, score_hico


def test_intervals_of_a_mean_are_those_of_its_standard_error():
    values = np.random.default_rng(1).normal(size=400)
    found = bootstrap(lambda chosen: {"mean": float(values[chosen].mean())}, 400, resamples=2000)["mean"]
    error = values.std() / 20
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - 1.96 * error, abs=0.4 * error)
    assert found.high == pytest.approx(values.mean() + 1.96 * error, abs=0.4 * error)
    narrower = bootstrap(lambda chosen: {"mean": float(values[chosen].mean())}, 400, resamples=2000, level=0.5)["mean"]
    assert found.low < narrower.low < narrower.high < found.high


def test_resamples_follow_from_seed_and_number():
    drawn: dict[tuple[int, int], list[list[int]]] = {}
    for seed, resamples in ((1, 3), (1, 5), (2, 3)):
        kept = drawn[seed, resamples] = []
        bootstrap(lambda chosen, kept=kept: kept.append(chosen.tolist()) or {}, 20, resamples=resamples, seed=seed)
    # The first call is for the value on all images.
    assert drawn[1, 3][0] == [*range(20)]
    assert drawn[1, 5][:4] == drawn[1, 3][:4]
    assert drawn[2, 3][1:4] != drawn[1, 3][1:4]
    assert all(chosen == sorted(chosen) and len(chosen) == 20 for chosen in drawn[1, 5][:6])
    # Then the jackknife leaves out each of the few images in turn.
    assert sorted(set(range(20)).difference(chosen).pop() for chosen in drawn[1, 5][6:]) == [*range(20)]


@pytest.mark.parametrize("rules", [HicoRules(), HicoRules(official=True), HicoRules(known_object=True)])
def test_kept_matches_score_chosen_images_as_scoring_copies_of_them_does(rules: HicoRules):
    predicted, truth = synthetic(images=60, per_image=40, seed=2)
    matches = match_hico(predicted, truth, rules)
    for seed in range(5):
        chosen = np.sort(np.random.default_rng(seed).integers(0, 60, 60))
        again = score_hico(resampled(predicted, chosen), resampled(truth, chosen), rules)
        kept = matches.scores(chosen)
        assert kept.average_precision == pytest.approx(again.average_precision, abs=1e-12)
        assert kept.recall == pytest.approx(again.recall, abs=1e-12)
        assert kept.truths == again.truths


def test_resamples_without_a_value_are_counted_out():
    found = bootstrap(lambda chosen: {"rare": 1.0 if 0 in chosen else float("nan")}, 10, resamples=200)["rare"]
    assert 0 < found.resamples < 200
    assert (found.value, found.low, found.high) == (1.0, 1.0, 1.0)


IMAGES, CLASSES = 100, 20
RATES = np.geomspace(1.0, 30.0, CLASSES) / IMAGES
"""Mean number of truths of a class in an image: the rarest class has one in the whole test set."""


def drawn_set(draws: np.random.Generator) -> HicoMatches:
    """Draws a test set from a population in which each class has its rate, its share of found truths and of errors."""
    share = np.random.default_rng(5).uniform(0.1, 0.9, CLASSES)
    truths = draws.poisson(RATES, (IMAGES, CLASSES))
    numbers = (draws.binomial(truths, share), draws.poisson(1.5 * RATES, (IMAGES, CLASSES)))
    image, kind, right, score = [], [], [], []
    for correct, (counts, alpha, beta) in enumerate(((numbers[1], 2, 3), (numbers[0], 4, 2))):
        where = np.nonzero(counts)
        image.append(np.repeat(where[0], counts[where]))
        kind.append(np.repeat(where[1], counts[where]))
        right.append(np.full(counts.sum(), bool(correct)))
        score.append(draws.beta(alpha, beta, counts.sum()))
    columns = [np.concatenate(each) for each in (image, kind, right, score)]
    order = np.lexsort((-columns[3], columns[1]))
    of_truth = np.nonzero(truths)
    return HicoMatches(
        images=IMAGES,
        triplets=tuple(Triplet(0, number, 0) for number in range(CLASSES)),
        bounds=np.searchsorted(columns[1][order], np.arange(CLASSES + 1)),
        position=order,
        image=columns[0][order],
        right=columns[2][order],
        truth_triplet=np.repeat(of_truth[1], truths[of_truth]),
        truth_image=np.repeat(of_truth[0], truths[of_truth]),
        official=False,
    )


def test_intervals_of_a_mean_over_rare_classes_hold_the_mean_over_test_sets():
    """Classes with one truth in a test set are drawn twice or not at all, which lifts the mean of resamples."""
    expected = float(np.mean([drawn_set(np.random.default_rng([1, n])).scores().mean() for n in range(150)]))
    held, lifted = [], []
    for number in range(20):
        matches = drawn_set(np.random.default_rng([2, number]))
        drawn: list[float] = []

        def mean(chosen, matches=matches, drawn=drawn):
            drawn.append(matches.scores(chosen).mean())
            return {"full": drawn[-1]}

        found = bootstrap(mean, IMAGES, resamples=20)["full"]
        held.append(found.low <= expected <= found.high)
        lifted.append(np.mean(drawn[1:21]) - found.value)
        assert found.value - found.low == pytest.approx(found.high - found.value)
    assert np.mean(lifted) > 0.004
    assert np.mean(held) >= 0.85
    never = bootstrap(lambda chosen: {"none": float("nan")}, 10, resamples=5)["none"]
    assert never.resamples == 0 and np.isnan(never.low)


@pytest.mark.parametrize("wrong", [{"images": 0}, {"resamples": 1}, {"level": 1.0}])
def test_nothing_to_resample_is_refused(wrong):
    with pytest.raises(ValueError, match="no intervals"):
        bootstrap(lambda chosen: {}, **({"images": 3} | wrong))
