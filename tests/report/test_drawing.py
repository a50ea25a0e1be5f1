"""Where boxes, arrows and texts of a drawing lie, whatever medium renders them."""

from __future__ import annotations

import pytest

from pipeline.report.drawing import Rect, beside, first_free


@pytest.mark.parametrize(
    ("x", "y", "covers"), [(5, 5, True), (10, 0, False), (0, 10, False), (5, 20, False), (20, 5, False)]
)
def test_text_stands_at_the_first_place_that_no_other_covers(x: float, y: float, covers: bool) -> None:
    places = [Rect(0, 0, 10, 10), Rect(50, 50, 10, 10)]
    assert first_free(places, [Rect(x, y, 10, 10)]) == places[covers]
    assert first_free(places, places) is None


@pytest.mark.parametrize("box", [Rect(-20, -5, 500, 300), Rect(90, 40, -80, -30), Rect(200, 200, 9, 9)])
def test_boxes_of_damaged_labels_are_drawn_inside_their_image(box: Rect) -> None:
    left, top, right, bottom = box.within(100, 50).corners
    assert 0 <= left <= right <= 99 and 0 <= top <= bottom <= 49


def test_text_that_is_larger_than_its_image_starts_at_the_edge() -> None:
    assert Rect(80, -3, 30, 10).moved_into(100, 50) == Rect(70, 0, 30, 10)
    assert Rect(80, 0, 300, 10).moved_into(100, 50).x == 0


def test_arrows_in_both_directions_do_not_cover_each_other() -> None:
    assert beside((0, 0), (10, 0), 3) == (0, 3, 10, 3)
    assert beside((10, 0), (0, 0), 3) == (10, -3, 0, -3)
