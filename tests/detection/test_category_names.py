"""A detector's names become the recipe's categories: the same words first, then synonyms and kinds, and never by guessing."""

from __future__ import annotations

import pytest

from pipeline.detection.detector import map_names
from storage.errors import FatalError

CATEGORIES = ("person", "couch", "tv", "truck", "hair drier", "handbag", "backpack", "bicycle", "motorcycle")


@pytest.mark.parametrize(
    ("name", "category"),
    [
        ("person", "person"),
        ("Person", "person"),
        ("hair_drier", "hair drier"),
        ("people", "person"),
        ("sofa", "couch"),
        ("television", "tv"),
        ("Hair Dryer", "hair drier"),
        ("fire truck", "truck"),
        ("bike", None),  # a bicycle or a motorcycle
        ("bag", None),  # broader than a handbag and a backpack
        ("vehicle", None),  # broader than a truck
        ("zebra", None),
    ],
)
def test_a_name_fits_one_category_or_none(name: str, category: str | None) -> None:
    assert map_names([name, "person"], CATEGORIES) == [category, "person"]


def test_a_broader_name_never_fits_a_narrower_category() -> None:
    assert map_names(["animal", "dog"], ["dog"]) == [None, "dog"]
    assert map_names(["dog", "cat"], ["animal"]) == ["animal", "animal"]


def test_the_same_words_come_before_a_synonym() -> None:
    assert map_names(["computer", "laptop"], ["laptop", "computer"]) == ["computer", "laptop"]


def test_names_that_fit_nothing_are_an_error_that_lists_both() -> None:
    with pytest.raises(FatalError) as error:
        map_names(["zebra", "giraffe"], ["tie", "cup"])
    assert all(name in str(error.value) for name in ("zebra", "giraffe", "tie", "cup", "detect.categories"))
