"""The stack weighs parts by what they are worth, and its probabilities follow from the candidates of an image."""

import numpy as np
import pytest

from tagger.labelling.calibration import Calibration, Line, Parts, Stack, features
from tagger.labelling.label_choice import with_probabilities
from tagger.pair import Pair
from tagger.relation import Relation


def mentions(number: int, tagger_knows: bool) -> tuple[list[Parts], list[bool]]:
    """Mentions of four pairs, one of them meant. The prior finds it more often than not; the tagger always or by chance."""
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
        Calibration(Line(1.0, 0.0), {"on": Line(3.0, 1.0)}),
        Calibration(Line(2.0, 1.0), stack=Stack(tagger=0.0)),
    )
    mean = Calibration.mean([one, other])
    assert (mean.common, mean.lines, mean.stack.tagger) == (Line(1.5, 0.5), {"on": Line(2.5, 1.0)}, 0.5)
    assert Calibration.from_json(mean.to_json()) == mean
