"""Posteriors, checked by hand."""

import pytest

from tagger.labelling.posteriors import posteriors
from tagger.pair import Pair

# "a man rides a horse" may mean (0, 2) or (1, 2); "two men next to a dog" means two of three possible pairs.
PAIRS = [
    Pair(0, 2, "ride", 0, 2, mention=0, prior=0.5),
    Pair(1, 2, "ride", 0, 2, mention=0, prior=0.5),
    *(Pair(man, 3, "next to", 1, 3, mention=1, prior=2 / 3) for man in (0, 1, 2)),
]


def test_posteriors_sum_to_what_a_mention_means_and_follow_prior_and_odds():
    found = posteriors(PAIRS, [0.8, 0.2, 0.9, 0.5, 0.1])
    assert all(one is not None and 0 <= one <= 1 for one in found)
    assert found[:2] == pytest.approx([16 / 17, 1 / 17])  # odds 4 and 1/4
    assert sum(found[2:]) == pytest.approx(2)  # type: ignore[arg-type]
    assert found[2] == 1.0  # the likeliest is capped at 1
    assert found[3:] == pytest.approx([0.9, 0.1])


def test_a_mention_of_one_pair_means_it_and_no_mention_means_nothing():
    alone, unsaid = Pair(0, 1, "on", 0, 1, mention=0, prior=1.0), Pair(1, 0, "on", 0, 1)
    assert posteriors([alone, unsaid], [0.01, 0.9]) == [1.0, None]
    assert posteriors([], []) == []
