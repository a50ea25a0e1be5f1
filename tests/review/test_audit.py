"""The random audit: what the page says of the labels' precision follows from the verdicts that are given on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from run_builder import RunBuilder

from pipeline.review.labels import labels_of
from pipeline.review.review_state import ReviewState
from pipeline.review.reviews import verdict_on
from pipeline.review.search import Search
from pipeline.run.context import run_view


def test_the_precision_is_the_share_of_audited_labels_that_reviewers_accept(
    tmp_path: Path, recipe: Any, labelled: RunBuilder
) -> None:
    state = ReviewState(run_view(recipe, labelled.run), tmp_path / "index.duckdb", tmp_path / "verdicts")
    labels = {label.words: label for label in labels_of(state.index, state.listing.labels(Search(), 0, 10).numbers)}
    wrong, right = labels["person next to person"], labels["horse next to person"]
    before = state.audit.precision()
    verdicts = [verdict_on(wrong, "reject", "ann", "toy"), verdict_on(right, "accept", "ann", "toy")]
    state.reviews.record([wrong, right], verdicts)
    after = state.audit.precision()
    state.close()
    assert (before.precision, before.judged) == (None, 0)
    assert (after.precision, after.judged) == (0.5, 2)
