"""Calibration of scores to probabilities, by lines and by a stack that weighs parts by what they are worth."""

import numpy as np
import pytest

from tagger.labelling.calibration import Calibration, Parts, PlattScaling, Stack, calibration_error, features
from tagger.labelling.posteriors import with_probabilities
from tagger.pair import Pair
from tagger.relation import Relation


def made(count: int, scale: float, offset: float, seed: int = 0) -> tuple[list[float], list[bool]]:
    """Draws scores and truths; the logit of the true probability lies on a line over the scores' logits."""
    draws = np.random.default_rng(seed)
    logits = draws.normal(-1, 2, count)
    truth = draws.random(count) < 1 / (1 + np.exp(-(scale * logits + offset)))
    return (1 / (1 + np.exp(-logits))).tolist(), truth.tolist()


def test_error_by_hand():
    assert calibration_error([0.9, 0.9, 0.1, 0.1], [True, False, False, False], bins=2) == pytest.approx(0.25)
    assert calibration_error([1.0, 0.0], [True, False]) == 0
    assert calibration_error([], []) is None


def test_a_fit_finds_the_line_that_scores_are_off_by():
    scores, truth = made(4000, 0.5, 1.0)
    found = Calibration.fit(["on"] * 4000, scores, truth)
    assert found.lines["on"].scale == pytest.approx(0.5, abs=0.05)
    assert found.lines["on"].offset == pytest.approx(1.0, abs=0.1)
    others, right = made(2000, 0.5, 1.0, seed=1)
    before = calibration_error(others, right)
    assert calibration_error([found.probability("on", s) for s in others], right) < 0.03 < before


def test_each_predicate_has_its_own_and_a_rare_one_the_common_line():
    sure, right = made(500, 1.0, 2.0)
    unsure, wrong = made(500, 1.0, -2.0, seed=1)
    names = ["on"] * 500 + ["ride"] * 500 + ["feed"] * 3
    found = Calibration.fit(names, [*sure, *unsure, 0.5, 0.5, 0.5], [*right, *wrong, True, True, True])
    assert found.probability("on", 0.5) > 0.8 > 0.2 > found.probability("ride", 0.5)
    assert "feed" not in found.lines
    assert found.probability("feed", 0.5) == found.probability("never seen", 0.5)


def test_all_wordings_of_a_predicate_share_its_line():
    scores, right = made(30, 1.0, 2.0)
    found = Calibration.fit(["holding", "is holding", "holds"] * 10, scores, right)
    assert list(found.lines) == ["hold"]
    assert found.probability("holding", 0.5) == found.probability("hold", 0.5) != found.probability("on", 0.5)


def test_a_higher_score_is_never_a_lower_probability():
    found = Calibration.fit(["on"] * 40, [0.9] * 20 + [0.1] * 20, [False] * 20 + [True] * 20)
    assert found.probability("on", 0.1) < found.probability("on", 0.9)
    assert 0 < found.probability("on", 0.0) < found.probability("on", 1.0) < 1


def test_no_labels_leave_scores_as_they_are():
    assert Calibration.fit([], [], []).probability("on", 0.3) == pytest.approx(0.3)


def test_written_and_read_back():
    given = Calibration(PlattScaling(0.5, -1.0), {"next to": PlattScaling(2.0, 0.25)})
    assert Calibration.from_json(given.to_json()) == given
    for damaged in (b"{", b"[]", b'{"common": {"slope": 1}, "lines": {}}'):
        with pytest.raises(ValueError, match="not a calibration"):
            Calibration.from_json(damaged)


def mentions(number: int, tagger_knows: bool) -> tuple[list[Parts], list[bool]]:
    """Mentions of four pairs, one meant. The prior finds it more often than not; the tagger always or by chance."""
    generator = np.random.default_rng(0)
    labels, truth = [], []
    for _ in range(number):
        meant = int(generator.integers(4))
        prior = generator.dirichlet([4.0 if pair == meant else 1.0 for pair in range(4)])
        seen = [0.9 if pair == meant else 0.1 for pair in range(4)] if tagger_knows else generator.random(4)
        odds = prior * np.array(seen) / (1 - np.array(seen))
        labels += [features(*each, 2) for each in zip(seen, prior, odds / odds.sum(), strict=True)]
        truth += [pair == meant for pair in range(4)]
    return labels, truth


def likelihood(stack: Stack, labels: list[Parts], truth: list[bool]) -> float:
    probabilities = [stack.probability(stack.parts(label)) for label in labels]
    return float(np.mean([np.log(p if right else 1 - p) for p, right in zip(probabilities, truth, strict=True)]))


def test_a_tagger_that_knows_nothing_loses_its_weight():
    labels, truth = mentions(300, tagger_knows=False)
    fitted = Stack.fit(labels, truth)
    assert fitted.tagger < 0.1 and fitted.posterior < 0.1 and fitted.prior > 0.5
    blind = Stack(tagger=0.0, prior=1.0, posterior=0.0)
    assert likelihood(fitted, labels, truth) > likelihood(blind, labels, truth) > likelihood(Stack(), labels, truth)


def test_few_images_change_little_and_captions_none():
    labels, truth = mentions(2, tagger_knows=False)
    assert Stack.fit(labels, truth).tagger > 0.7
    assert Stack.fit([], []) == Stack()
    assert Stack.fit(*mentions(300, tagger_knows=True)).captions == Stack().captions


# "a man rides a horse" may mean two men; three captions say it.
PAIRS = [Pair(man, 2, "ride", 0, 2, mention=0, prior=0.5, support=3) for man in (0, 1)]


def label(man: int, score: float, posterior: float | None) -> Relation:
    return Relation(man, 2, "ride", score, True, 0, score, posterior)


def test_each_part_is_a_column_that_adds_up_to_the_probability():
    found = with_probabilities([label(0, 0.8, 0.9), label(1, 0.8, 0.1)], PAIRS, Stack())
    for one in found:
        parts = [one.tagger_part, one.prior_part, one.posterior_part, one.captions_part]
        assert one.probability == pytest.approx(1 / (1 + np.exp(-(Stack().offset + sum(parts)))))  # type: ignore[arg-type]
    likely, unlikely = found
    assert likely.probability > 0.8 > 0.5 > unlikely.probability  # type: ignore[operator]
    assert likely.captions_part == pytest.approx(0.8 * np.log(1.5))


def test_without_captions_the_tagger_decides_and_other_pairs_are_least_likely():
    unread = [Pair(0, 2, "ride", -1, 1, support=0)]
    [alone] = with_probabilities([label(0, 0.8, None)], unread, Stack())
    assert (alone.prior_part, alone.posterior_part, alone.captions_part) == (0.0, 0.0, 0.0)
    [other] = with_probabilities([Relation(1, 0, "ride", 0.99, False, -1, 0.99)], PAIRS, Stack())
    assert other.probability < 0.01  # type: ignore[operator]


def test_the_mean_of_calibrations_has_the_common_line_where_one_has_none_of_its_own():
    one, other = (
        Calibration(PlattScaling(1.0, 0.0), {"on": PlattScaling(3.0, 1.0)}),
        Calibration(PlattScaling(2.0, 1.0), stack=Stack(tagger=0.0)),
    )
    mean = Calibration.mean([one, other])
    assert (mean.common, mean.lines, mean.stack.tagger) == (PlattScaling(1.5, 0.5), {"on": PlattScaling(2.5, 1.0)}, 0.5)
    assert Calibration.from_json(mean.to_json()) == mean
