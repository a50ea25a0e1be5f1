"""Intervals by resampling images: what they cover, and that kept matches give what scoring again would."""

import numpy as np
import pytest

from benchmarks.evaluation import synthetic
from pipeline.evaluation.bootstrap import bootstrap, resampled
from pipeline.evaluation.hico import HicoRules, match_hico, score_hico


def test_intervals_of_a_mean_are_those_of_its_standard_error():
    values = np.random.default_rng(1).normal(size=400)
    found = bootstrap(lambda chosen: {"mean": float(values[chosen].mean())}, 400, resamples=2000)["mean"]
    error = values.std() / 20
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - 1.96 * error, abs=0.15 * error)
    assert found.high == pytest.approx(values.mean() + 1.96 * error, abs=0.15 * error)
    narrower = bootstrap(lambda chosen: {"mean": float(values[chosen].mean())}, 400, resamples=2000, level=0.5)["mean"]
    assert found.low < narrower.low < narrower.high < found.high


def test_resamples_follow_from_seed_and_number():
    drawn: dict[tuple[int, int], list[list[int]]] = {}
    for seed, resamples in ((1, 3), (1, 5), (2, 3)):
        kept = drawn[seed, resamples] = []
        bootstrap(lambda chosen, kept=kept: kept.append(chosen.tolist()) or {}, 20, resamples=resamples, seed=seed)
    # The first call is for the value on all images.
    assert drawn[1, 3][0] == [*range(20)]
    assert drawn[1, 5][:4] == drawn[1, 3]
    assert drawn[2, 3][1:] != drawn[1, 3][1:]
    assert all(chosen == sorted(chosen) and len(chosen) == 20 for chosen in drawn[1, 5])


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
    never = bootstrap(lambda chosen: {"none": float("nan")}, 10, resamples=5)["none"]
    assert never.resamples == 0 and np.isnan(never.low)


@pytest.mark.parametrize("wrong", [{"images": 0}, {"resamples": 0}, {"level": 1.0}])
def test_nothing_to_resample_is_refused(wrong):
    with pytest.raises(ValueError, match="no intervals"):
        bootstrap(lambda chosen: {}, **({"images": 3} | wrong))
