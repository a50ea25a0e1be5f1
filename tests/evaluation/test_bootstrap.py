"""Intervals by resampling images: what they cover, and that kept matches give what scoring again would."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.evaluation import synthetic
from pipeline.evaluation import benchmark
from pipeline.evaluation.benchmark import Evaluated, Options
from pipeline.evaluation.bootstrap import bootstrap, resampled
from pipeline.evaluation.hico import HicoMatches, TripletClass
from pipeline.evaluation.relations import Integers, Relations


def test_intervals_of_a_mean_are_those_of_its_standard_error():
    values = np.random.default_rng(1).normal(size=400)
    found = bootstrap(lambda chosen: {"mean": float(values[chosen].mean())}, 400, resamples=2000)["mean"]
    error = values.std() / 20
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - 1.96 * error, abs=0.4 * error)
    assert found.high == pytest.approx(values.mean() + 1.96 * error, abs=0.4 * error)


def test_resamples_follow_from_their_number():
    drawn: dict[int, list[list[int]]] = {}
    for resamples in (3, 5):
        kept = drawn[resamples] = []
        bootstrap(lambda chosen, kept=kept: kept.append(chosen.tolist()) or {}, 20, resamples=resamples)
    # The first call is for the value on all images.
    assert drawn[3][0] == [*range(20)]
    assert drawn[5][:4] == drawn[3][:4] and drawn[3][1] != drawn[3][2]
    assert all(chosen == sorted(chosen) and len(chosen) == 20 for chosen in drawn[5][:6])
    # Then the jackknife leaves out each of the few images in turn.
    assert sorted(set(range(20)).difference(chosen).pop() for chosen in drawn[5][6:]) == [*range(20)]


NAMES = [str(number) for number in range(200)]
SEEN = np.stack([np.zeros(300, np.int64), np.arange(300) % 80, np.arange(300) % 117], axis=1)
Scored = Callable[[Relations, Relations, Options], Evaluated]
BENCHMARKS: dict[str, tuple[Scored, Options]] = {
    "HICO-DET": (lambda p, t, o: benchmark.hico_det(p, t, NAMES, o), Options(objects=NAMES, known_object=True)),
    "HICO-DET, official": (lambda p, t, o: benchmark.hico_det(p, t, NAMES, o), Options(objects=NAMES, official=True)),
    "Open Images": (lambda p, t, o: benchmark.open_images(p, t, NAMES, o), Options(verified=np.array([[0, 199]]))),
    "Visual Genome": (lambda p, t, o: benchmark.visual_genome(p, t, NAMES, o), Options(seen=SEEN)),
    "Visual Genome, official": (lambda p, t, o: benchmark.visual_genome(p, t, NAMES, o), Options(official=True)),
    "VRD": (lambda p, t, o: benchmark.visual_relationships(p, t, NAMES, o), Options(seen=SEEN)),
}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_matching_once_gives_the_intervals_of_matching_every_resample_anew(name):
    scored, options = BENCHMARKS[name]
    predicted, truth = synthetic(images=20, per_image=40, seed=2)

    def again(chosen: Integers) -> dict[str, float]:
        found = scored(resampled(predicted, chosen), resampled(truth, chosen), replace(options, resamples=0))
        return {figure.name: figure.value for figure in found.figures}

    expected = bootstrap(again, truth.images, resamples=6)
    figures = scored(predicted, truth, replace(options, resamples=6)).figures
    assert len(figures) >= 2 and {figure.name for figure in figures} == expected.keys()
    for figure in figures:
        anew = expected[figure.name]
        assert figure.low is not None and figure.low < figure.high
        wanted = (anew.value, max(anew.low, 0.0), min(anew.high, 1.0))
        assert (figure.value, figure.low, figure.high) == pytest.approx(wanted, abs=1e-12), figure.name


def test_resamples_without_a_value_are_left_out():
    found = bootstrap(lambda chosen: {"rare": 1.0 if 0 in chosen else float("nan")}, 10, resamples=200)["rare"]
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
        kinds=tuple(TripletClass(0, number, 0) for number in range(CLASSES)),
        images=IMAGES,
        bounds=np.searchsorted(columns[1][order], np.arange(CLASSES + 1)),
        position=order, image=columns[0][order], right=columns[2][order],
        truth=np.repeat(of_truth[1], truths[of_truth]), truth_image=np.repeat(of_truth[0], truths[of_truth]),
        official=False,
    )  # fmt: skip


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
    assert np.isnan(never.low)


def test_without_images_there_are_values_and_no_intervals():
    predicted, truth = (resampled(each, np.zeros(0, np.int64)) for each in synthetic(images=3, per_image=5))
    for scored, options in BENCHMARKS.values():
        figures = scored(predicted, truth, options).figures
        assert all(np.isnan(figure.value) and figure.low is None for figure in figures)


def test_a_figure_that_is_the_same_on_all_resamples_has_no_interval():
    predicted, truth = synthetic(images=20, per_image=5)
    nothing = predicted.take(np.zeros(0, np.int64))
    figures = benchmark.hico_det(nothing, truth, NAMES, Options(objects=NAMES, resamples=6)).figures
    assert {(figure.value, figure.low, figure.high) for figure in figures} == {(0.0, None, None)}


def test_one_image_has_values_and_no_intervals():
    found = bootstrap(lambda chosen: {"full": 0.5}, 1)["full"]
    assert found.value == 0.5 and np.isnan(found.low) and np.isnan(found.high)


@pytest.mark.parametrize("wrong", [{"images": 0}, {"resamples": 1}, {"resamples": -5}])
def test_nothing_to_resample_is_refused(wrong):
    with pytest.raises(ValueError, match=r"no intervals .* resamples \(use 0 or 2\+\)"):
        bootstrap(lambda chosen: {}, **({"images": 3} | wrong))
