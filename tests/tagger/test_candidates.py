from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, strategies as st

from tagger.box import Box
from tagger.candidates.grounding import ground, pair_priors
from tagger.candidates.source import DropReason
from tagger.labelling.blind_labeller import blind_labels
from tagger.pair import Pair
from tagger.relation import Relation
from tagger.triplet import Triplet


def triplet(subject: str, predicate: str, object_: str) -> Triplet:
    return Triplet(
        subject=subject, subject_lemma=subject, predicate=predicate, predicate_lemma=predicate,
        object=object_, object_lemma=object_, subject_start=0, subject_end=1, predicate_start=2, predicate_end=3,
        object_start=4, object_end=5, rule="verb-object",
    )  # fmt: skip


def ends(pairs: Sequence[Pair]) -> list[tuple[int, int, str]]:
    return [(pair.subject, pair.object, pair.predicate) for pair in pairs]


def boxes(*categories: str) -> list[Box]:
    return [Box(category, 10.0 * place, 0.0, 5.0, 5.0) for place, category in enumerate(categories)]


def test_every_matching_ordered_pair_with_its_ambiguity():
    found = ground([triplet("man", "ride", "horse")], boxes("person", "horse", "person", "dog")).pairs
    assert ends(found) == [(0, 1, "ride"), (2, 1, "ride")]
    assert {(pair.triplet, pair.ambiguity, pair.mention, pair.support) for pair in found} == {(0, 2, 0, 1)}
    assert blind_labels(found, "naive") == [Relation(0, 1, "ride", 1.0, True, 0), Relation(2, 1, "ride", 1.0, True, 0)]


def test_a_box_never_pairs_with_itself():
    found = ground([triplet("person", "next to", "woman")], boxes("person", "person", "person")).pairs
    assert [(pair.subject, pair.object) for pair in found] == [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)]
    assert {pair.ambiguity for pair in found} == {6}
    assert ground([triplet("person", "next to", "woman")], boxes("person")).pairs == []


def test_captions_that_say_the_same_of_the_same_boxes_are_one_mention():
    triplets = [triplet("man", "ride", "horse"), triplet("dog", "on", "horse"), triplet("person", "is riding", "horse")]
    found = ground(triplets, boxes("person", "horse", "person")).pairs
    assert {(pair.mention, pair.triplet, pair.support, pair.predicate) for pair in found} == {(0, 0, 2, "ride")}
    assert sum(pair.prior for pair in found) == pytest.approx(1)


def test_a_triplet_is_about_the_boxes_that_its_caption_is_of():
    said, placed = [triplet("man", "ride", "horse")] * 5, boxes("person", "horse", "person", "dog")
    found = ground(said, placed, regions=[(), (1, 2), (0,), (1,), (1, 3)])
    assert [(p.mention, p.subject, p.object, p.ambiguity, p.support) for p in found.pairs] == [
        (0, 0, 1, 2, 1), (0, 2, 1, 2, 1), (1, 2, 1, 1, 1), (2, 0, 1, 1, 1), (3, 0, 1, 2, 1), (3, 2, 1, 2, 1),
    ]  # fmt: skip
    assert found.pairs[2].prior == found.pairs[3].prior == 1
    assert [(each.triplet, each.reason) for each in found.dropped] == [(4, DropReason.OTHER_BOXES)]


def test_mentions_that_may_mean_one_pair_each_have_it():
    triplets = [triplet("computer", "on", "bag"), triplet("person", "hold", "cup"), triplet("laptop", "on", "suitcase")]
    found = ground(triplets, boxes("laptop", "suitcase", "tv")).pairs
    assert [(*end, pair.triplet, pair.mention) for end, pair in zip(ends(found), found, strict=True)] == [
        (0, 1, "on", 0, 0), (2, 1, "on", 0, 0), (0, 1, "on", 2, 1),
    ]  # fmt: skip
    assert found[2].prior == 1
    assert blind_labels(found, "naive") == [Relation(0, 1, "on", 1.0, True, 0), Relation(2, 1, "on", 1.0, True, 0)]


@pytest.mark.parametrize(
    ("subjects", "objects", "captions", "total"),
    [(1, 1, (), 1), (2, 1, (), 2), (0, 1, (), 2), (1, 3, (), 3), (9, 1, (), 4), (1, 1, (0, 0), 2), (1, 1, (0, 1), 1)],
)
def test_priors_of_a_mention_sum_to_what_a_caption_counts(subjects, objects, captions, total):
    said = replace(triplet("man", "hold", "cup"), subject_count=subjects, object_count=objects)
    found = ground([said] * max(len(captions), 1), boxes("person", "cup", "person", "cup"), captions).pairs
    assert len(found) == 4
    assert sum(pair.prior for pair in found) == pytest.approx(total)


def test_near_and_overlapping_pairs_are_likelier():
    man, horse, far = Box("person", 0, 0, 30, 60), Box("horse", 5, 20, 60, 60), Box("horse", 500, 20, 60, 60)
    near = ground([triplet("man", "ride", "horse")], [man, horse, far]).pairs
    assert near[0].prior > 0.9


def test_said_sizes_choose_among_alike():
    placed = [Box("person", 0, 0, 50, 50), Box("dog", 60, 0, 20, 20), Box("dog", -30, 0, 40, 40)]
    said = triplet("man", "hold", "dog")
    small, large = (
        ground([replace(said, object_attributes=(word,))], placed).pairs[0].prior for word in ("small", "large")
    )
    assert small > ground([said], placed).pairs[0].prior > large


sizes = st.floats(0, 1e6, allow_nan=False)
any_box = st.builds(Box, st.just("person"), st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), sizes, sizes)


@given(st.lists(any_box, min_size=2, max_size=6), st.integers(1, 40), st.sets(st.sampled_from(["large", "tiny"])))
def test_priors_are_probabilities_that_sum_to_the_count(placed, stated, said):
    pairs = [(i, j) for i in range(len(placed)) for j in range(len(placed)) if i != j]
    priors = pair_priors(pairs, placed, stated, said, said)
    assert all(0 < prior <= 1 for prior in priors)
    assert sum(priors) == pytest.approx(min(stated, len(pairs)))


def test_crowds_are_left_out_and_indices_stay():
    crowd = Box("person", 0.0, 0.0, 9.0, 9.0, crowd=True)
    found = ground([triplet("man", "ride", "horse")], [crowd, *boxes("person", "horse")]).pairs
    assert ends(found) == [(1, 2, "ride")]
    assert found[0].prior == 1


@pytest.mark.parametrize("said, reason, value", [
    (triplet("man", "?", "horse"), DropReason.NO_PREDICATE, "?"),
    (triplet("cloud", "over", "horse"), DropReason.NO_SUBJECT_CATEGORY, "cloud"),
    (triplet("man", "on", "street"), DropReason.NO_OBJECT_CATEGORY, "street"),
    (triplet("cat", "on", "horse"), DropReason.NO_SUBJECT_BOX, "cat"),
    (triplet("man", "hold", "cat"), DropReason.NO_OBJECT_BOX, "cat"),
    (triplet("cat", "on", "street"), DropReason.NO_OBJECT_CATEGORY, "street"),
    (triplet("horse", "next to", "horse"), DropReason.SAME_BOX, "horse, horse"),
])  # fmt: skip
def test_a_triplet_without_candidates_says_why(said, reason, value):
    found = ground([said], boxes("person", "horse"), known=("person", "horse", "cat"))
    assert found == ([], [(0, reason, value)])


def test_boxes_that_do_not_intersect_say_so():
    apart = ground([triplet("man", "ride", "horse")], boxes("person", "horse"), overlapping=True)
    assert [(lost.reason, lost.value) for lost in apart.dropped] == [(DropReason.APART, "man, horse")]


@given(st.lists(st.tuples(*[st.sampled_from(["man", "horse", "street", "cat", "?"])] * 3), max_size=8))
def test_every_triplet_supports_a_mention_or_is_dropped(words):
    said = [triplet(*each) for each in words]
    found = ground(said, boxes("person", "person", "horse"), known=("person", "horse", "cat"))
    support = {pair.mention: pair.support for pair in found.pairs}
    assert sum(support.values()) + len(found.dropped) == len(said)
