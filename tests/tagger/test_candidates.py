from tagger.box import Box
from tagger.candidates import Pair, candidates, naive_labels
from tagger.relation import Relation
from tagger.triplet import Triplet


def triplet(subject: str, predicate: str, object_: str) -> Triplet:
    return Triplet(
        subject=subject, subject_lemma=subject, predicate=predicate, predicate_lemma=predicate,
        object=object_, object_lemma=object_, subject_start=0, subject_end=1, predicate_start=2, predicate_end=3,
        object_start=4, object_end=5, rule="verb-object",
    )  # fmt: skip


def boxes(*categories: str) -> list[Box]:
    return [Box(category, 10.0 * place, 0.0, 5.0, 5.0) for place, category in enumerate(categories)]


def test_every_matching_ordered_pair_with_its_ambiguity() -> None:
    found = candidates([triplet("man", "ride", "horse")], boxes("person", "horse", "person", "dog"))
    assert found == [Pair(0, 1, "ride", 0, 2), Pair(2, 1, "ride", 0, 2)]


def test_a_box_never_pairs_with_itself() -> None:
    found = candidates([triplet("person", "next to", "woman")], boxes("person", "person", "person"))
    assert [(pair.subject, pair.object) for pair in found] == [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)]
    assert {pair.ambiguity for pair in found} == {6}
    assert candidates([triplet("person", "next to", "woman")], boxes("person")) == []


def test_the_same_label_keeps_its_first_triplet_and_least_ambiguity() -> None:
    triplets = [triplet("computer", "on", "bag"), triplet("person", "hold", "cup"), triplet("laptop", "on", "suitcase")]
    found = candidates(triplets, boxes("laptop", "suitcase", "tv"))
    assert found == [Pair(0, 1, "on", 0, 1), Pair(2, 1, "on", 0, 2)]


def test_one_pair_may_have_several_predicates() -> None:
    found = candidates([triplet("man", "on", "horse"), triplet("man", "ride", "horse")], boxes("person", "horse"))
    assert [(pair.predicate, pair.triplet) for pair in found] == [("on", 0), ("ride", 1)]


def test_a_pair_has_only_predicates_of_its_own_categories() -> None:
    found = candidates([triplet("man", "ride", "horse")], boxes("person", "horse", "dog"))
    assert all(pair.object == 1 for pair in found)


def test_crowds_are_left_out_and_indices_stay() -> None:
    crowd = Box("person", 0.0, 0.0, 9.0, 9.0, crowd=True)
    found = candidates([triplet("man", "ride", "horse")], [crowd, *boxes("person", "horse")])
    assert found == [Pair(1, 2, "ride", 0, 1)]


def test_predicates_are_canonical_and_empty_ones_dropped() -> None:
    found = candidates([triplet("man", "is riding", "horse"), triplet("man", "?", "horse")], boxes("person", "horse"))
    assert [pair.predicate for pair in found] == ["ride"]


def test_nouns_without_a_box_propose_nothing() -> None:
    assert candidates([triplet("man", "hold", "cup")], boxes("person", "horse")) == []
    assert candidates([], boxes("person")) == []
    assert candidates([triplet("man", "hold", "cup")], []) == []


def test_naive_labels_take_every_candidate_with_score_one() -> None:
    found = candidates([triplet("man", "ride", "horse")], boxes("person", "horse", "person"))
    assert naive_labels(found) == [Relation(0, 1, "ride", 1.0, True, 0), Relation(2, 1, "ride", 1.0, True, 0)]
