import json
from dataclasses import replace

import pytest

from tagger.box import Box, intersect
from tagger.candidates.cooccurrence import cooccurrence_candidates, cooccurrence_table, read_cooccurrence
from tagger.candidates.grounding import ground
from tagger.candidates.official import official_candidates, official_groups
from tagger.candidates.source import DropReason
from tagger.matching import AuthorsFileError, by_whole_words, by_whole_words_and
from tagger.parsing.parser import load_parser, parse_captions
from tagger.parsing.wordings import WORDINGS
from tests.tagger.test_candidates import boxes


def triplets(*captions: str):
    return [triplet for found in parse_captions(captions, load_parser()) for triplet in found]


def test_official_enumeration_takes_every_ordered_pair_once_a_text_in_order():
    said = triplets("a man next to a horse", "a man riding a horse", "a man next to the horse")
    found = official_candidates(said, boxes("horse", "person", "person"), wording=WORDINGS["official"]).pairs
    assert [(p.subject, p.object, p.predicate) for p in found] == [
        (1, 0, "next to"), (1, 0, "riding"), (2, 0, "next to"), (2, 0, "riding"),
    ]  # fmt: skip
    assert [(p.triplet, p.mention, p.support, p.prior) for p in found[:2]] == [(0, 0, 2, 1.0), (1, 1, 1, 1.0)]


@pytest.mark.parametrize("people, sizes", [(0, [0]), (9, [90]), (10, [100, 10]), (16, [100, 100, 72])])
def test_groups_hold_100_pairs_and_an_exact_multiple_ends_with_an_empty_one(people, sizes):
    said = triplets("a man and a woman next to a man")[:1]
    groups = official_groups(official_candidates(said, boxes(*["person"] * (people + 1))).pairs)
    assert [len(pairs) for pairs, _ in groups] == sizes
    assert all(texts == ["next to"] for pairs, texts in groups if pairs)
    exact = official_candidates(triplets("a man riding a horse"), boxes(*["person"] * 20, *["horse"] * 5)).pairs
    assert [len(pairs) for pairs, _ in official_groups(exact)] == [100, 0] and official_groups([]) == [([], [])]


def test_an_external_dictionary_adds_to_our_words():
    said = triplets("a gryphon sitting on a chair")
    placed = boxes("bird", "chair")
    assert ground(said, placed).pairs == []
    more = by_whole_words_and({"bird": ["gryphon", "hair"]})
    assert [(p.subject, p.object) for p in ground(said, placed, nouns=more).pairs] == [(0, 1)]
    assert ground(triplets("a cat on a chair"), placed, nouns=more).pairs == []


def test_overlap_keeps_pairs_that_intersect():
    apart, touching = Box("horse", 40, 0, 10, 10), Box("horse", 10, 0, 10, 10)
    man = Box("person", 0, 0, 10, 10)
    over = replace(touching, x=9.0)
    assert not intersect(man, touching)
    said = triplets("a man riding a horse")
    [pair] = ground(said, [man, apart, over], overlapping=True).pairs
    assert (pair.object, pair.prior, pair.ambiguity) == (2, 1.0, 1)
    assert official_candidates(said, [man, apart], overlapping=True).pairs == []


def test_cooccurring_predicates_need_no_caption():
    table = {"person": {"horse": ["riding", "near"], "person": ["near"]}}
    found = cooccurrence_candidates([], boxes("person", "horse", "person"), table=table).pairs
    assert [(p.subject, p.object, p.predicate) for p in found] == [
        (0, 1, "riding"), (0, 1, "near"), (0, 2, "near"), (2, 0, "near"), (2, 1, "riding"), (2, 1, "near"),
    ]  # fmt: skip
    assert {(p.triplet, p.mention, p.prior, p.support) for p in found} == {(-1, -1, 0.0, 0)}


def test_a_table_from_relations_by_falling_frequency():
    relations = [("man", "on", "horse"), ("woman", "riding", "horse"), ("boy", "riding", "horse"), ("hat", "on", "man")]
    table = cooccurrence_table(relations, ["person", "horse"], by_whole_words)
    assert table == {"person": {"horse": ["riding", "on"]}}


def test_a_table_is_read_or_refused_by_name(tmp_path):
    path = tmp_path / "table.json"
    path.write_text(json.dumps({"person": {"horse": ["riding"]}}))
    assert read_cooccurrence(path) == {"person": {"horse": ["riding"]}}
    path.write_text(json.dumps({"Person": {"wine_glass": ["holding"]}}))
    for names in (("person", "Wine glass"), ("Person", "wine_glass")):
        found = cooccurrence_candidates([], boxes(*names), table=read_cooccurrence(path)).pairs
        assert [pair.predicate for pair in found] == ["holding"]
    for bad in ("[]", '{"a": []}', '{"a": {"b": [1]}}', "{"):
        path.write_text(bad)
        with pytest.raises(AuthorsFileError, match=r"table.json.*subject: \{object"):
            read_cooccurrence(path)


def test_official_enumeration_and_cooccurrence_account_for_every_triplet_too():
    said = triplets("a man riding a horse", "a man on a street", "a cat next to a man", "a horse next to a horse")
    found = official_candidates(said, boxes("person", "horse"), known=("cat",))
    assert {lost.triplet: lost.reason for lost in found.dropped} == {
        1: DropReason.NO_OBJECT_CATEGORY, 2: DropReason.NO_SUBJECT_BOX, 3: DropReason.SAME_BOX,
    }  # fmt: skip
    assert {pair.triplet for pair in found.pairs} == {0}
    unread = cooccurrence_candidates(said, boxes("person", "horse"), table={}).dropped
    assert [lost.reason for lost in unread] == [DropReason.CAPTIONS_UNUSED] * len(said)
