"""Calibration of scores to probabilities."""

import numpy as np
import pytest

from tagger.labelling.calibration import Calibration, Line, calibration_error


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
    given = Calibration(Line(0.5, -1.0), {"next to": Line(2.0, 0.25)})
    assert Calibration.from_json(given.to_json()) == given
    for damaged in (b"{", b"[]", b'{"common": {"slope": 1}, "lines": {}}'):
        with pytest.raises(ValueError, match="not a calibration"):
            Calibration.from_json(damaged)
