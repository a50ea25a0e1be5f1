"""In the second world, boxes say nothing about acts, and tests have what training lacks in words that it knows."""

from collections.abc import Callable
from random import Random

import pytest

from scenes.acts import ACTS, UNSEEN, UNSEEN_WORDINGS, any_group, predicates, seen_group, wordings
from scenes.group import Group
from scenes.settings import SceneSettings
from tagger.english.predicates import canonical

ACT_OF = {wording: act for act in ACTS for wording in wordings(act)}
Combinations = set[tuple[str, str]]


def groups(make: Callable[[Random, bool], Group]) -> list[Group]:
    return [make(Random(seed), seed % 2 == 0) for seed in range(1500)]


@pytest.fixture(scope="module")
def seen() -> list[Group]:
    return groups(seen_group)


def acts_in(made: list[Group]) -> Combinations:
    """The wordings of acts, with the category that each is about."""
    return {(p, group.drafts[o].category) for group in made for _, p, o in group.planted if p in ACT_OF}


def test_there_are_many_wordings_which_the_pipeline_keeps_apart():
    assert len(ACTS) >= 40 and len(ACT_OF) >= 150
    assert len({canonical(wording) for wording in predicates()}) == len(predicates())


def test_training_lacks_a_fifth_of_the_combinations_and_a_sixth_of_the_wordings(seen):
    unseen = {(wording, category) for act, category in UNSEEN for wording in wordings(act)}
    assert not acts_in(seen) & unseen
    assert {wording for wording, _ in acts_in(seen)} == ACT_OF.keys() - UNSEEN_WORDINGS
    tested = acts_in(groups(any_group))
    assert {wording for wording, _ in tested} == ACT_OF.keys()
    assert 0.15 < len(tested & unseen) / len(tested) < 0.25


def test_training_knows_each_word_of_an_unseen_wording():
    words = {word for wording in ACT_OF.keys() - UNSEEN_WORDINGS for word in wording.split()}
    assert {word for wording in UNSEEN_WORDINGS for word in wording.split()} <= words


def test_people_have_the_same_proportions_whatever_they_do(seen):
    shapes = set()
    for group in seen:
        for subject in {s for s, predicate, _ in group.planted if predicate in ACT_OF}:
            left, bottom, right, top = group.extent(subject)
            shapes.add(round((right - left) / (top - bottom), 6))
    assert len(shapes) == 1


def test_who_rides_sits_on_the_mount(seen):
    for group in seen:
        for rider, predicate, mount in group.planted:
            assert predicate != "riding" or (rider, "sitting on", mount) in group.planted


def test_folders_of_the_first_world_keep_their_stamp():
    assert "world" not in SceneSettings().content()
    assert SceneSettings(world=2).content()["world"] == 2
