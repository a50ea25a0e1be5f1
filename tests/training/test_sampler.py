"""Selection of the samples of each step."""

from collections import Counter

import pytest

from pipeline.training.sampler import Place, StepSampler, stable_seed


def test_each_sample_comes_once_an_epoch_also_across_steps_that_straddle_epochs():
    sampler = StepSampler(samples=10, batch=4, seed=3)
    places = [place for step in range(sampler.steps(2)) for place in sampler.step(step)]
    assert Counter(place.epoch for place in places) == {0: 10, 1: 10}
    assert (
        {p.position for p in places if p.epoch == 0} == {p.position for p in places if p.epoch == 1} == set(range(10))
    )


def test_any_step_can_be_asked_for_first():
    walked = StepSampler(10, 4, seed=3)
    straight = [walked.step(step) for step in range(8)]
    assert StepSampler(10, 4, seed=3).step(7) == straight[7]
    assert StepSampler(10, 4, seed=3).step(2) == straight[2]


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_the_shares_of_all_processes_are_the_step(ranks):
    sampler = StepSampler(10, 4, seed=0)
    shares = [place for rank in range(ranks) for place in sampler.step(5, rank, ranks)]
    assert shares == sampler.step(5)


def test_seeds_and_epochs_shuffle_differently():
    first, other = (StepSampler(50, 50, seed).step(0) for seed in (0, 1))
    assert first != other
    assert [p.position for p in first] != [p.position for p in StepSampler(50, 50, 0).step(1)]


def test_the_order_is_the_same_on_every_machine():
    assert StepSampler(10, 3, seed=7).step(0) == [Place(8, 0), Place(6, 0), Place(4, 0)]
    assert stable_seed("a", 1) == 3483044825973052546
