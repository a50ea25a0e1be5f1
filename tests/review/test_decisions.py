"""Verdicts that the page sends: refused ones leave nothing behind, and the answer tells of the reviewer's pace."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from run_builder import RunBuilder

from pipeline.review.decisions import Decided, Decisions, decide
from pipeline.review.review_state import ReviewState
from pipeline.review.search import Search
from pipeline.run.context import run_view


@pytest.fixture
def state(tmp_path: Path, recipe: Any, labelled: RunBuilder) -> Iterator[ReviewState]:
    opened = ReviewState(run_view(recipe, labelled.run), tmp_path / "index.duckdb", tmp_path / "verdicts")
    yield opened
    opened.close()


def judge(state: ReviewState, *verdicts: dict[str, Any]) -> Decided:
    """Gives verdicts on as many labels of image 1, which has three boxes."""
    labels = state.listing.labels(Search(order="image"), 0, len(verdicts)).numbers
    decisions = [{"label": label, **verdict} for label, verdict in zip(labels, verdicts, strict=True)]
    return decide(state, "ann", Decisions.model_validate({"decisions": decisions}))


@pytest.mark.parametrize("end", ["subject", "object"])
def test_a_box_that_the_image_does_not_have_is_refused_with_all_that_came_with_it(state: ReviewState, end: str) -> None:
    with pytest.raises(ValueError, match=f"{end}: the image has no box 3"):
        judge(state, {"kind": "accept"}, {"kind": "wrong_pair", end: 3})
    assert state.reviews.log.standing_of("ann") == []
    assert judge(state, {"kind": "wrong_pair", end: 1}).verdicts == 1


def test_the_pace_is_the_median_of_the_verdicts_whose_time_is_known(state: ReviewState) -> None:
    untimed = judge(state, {"kind": "accept"})
    assert (untimed.verdicts, untimed.median_seconds) == (1, None)
    timed = judge(state, {"kind": "accept"}, *({"kind": "reject", "seconds": seconds} for seconds in (1.0, 2.5)))
    assert (timed.verdicts, timed.median_seconds) == (3, 1.75)


def test_a_verdict_that_stands_is_recorded_once(state: ReviewState) -> None:
    for kind in ("undo", "accept", "accept", "reject", "reject", "undo", "undo"):
        answer = judge(state, {"kind": kind})
    assert [verdict.kind for verdict in state.reviews.log.verdicts()] == ["accept", "reject", "undo", "undo"]
    assert answer.states[0].kind == ""


@pytest.mark.parametrize("correction, reason", [
    ({"kind": "wrong_predicate", "predicate": "rides"}, "the correction is the label itself"),
    ({"kind": "wrong_pair", "object": 0}, "subject and object are the same box"),
])  # fmt: skip
def test_a_correction_that_says_nothing_is_refused(state: ReviewState, correction: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        judge(state, correction)
