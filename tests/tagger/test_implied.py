import pytest
from hypothesis import given, strategies as st

from tagger.parsing.implied import ImpliedRelation, following, reading
from tagger.parsing.parser import load_parser, parse_captions
from tagger.parsing.wordings import authors_predicate, full_predicate


def implied(caption: str) -> list[str]:
    [triplets] = parse_captions([caption], load_parser(), implied=True)
    return [f"{t.subject_lemma} {t.predicate_lemma} {t.object_lemma}" for t in triplets if t.rule == "implied"]


@pytest.mark.parametrize("caption, wanted", [
    ("a man skiing down a hill", ["man ski on ski"]),
    ("a skier in a red jacket", ["skier ski on ski"]),
    ("a surfer riding a wave", ["surfer ride surfboard", "surfer surf on surfboard"]),
    ("two women playing tennis on a court", ["woman hold tennis racket"]),
    ("a tennis player on a court", ["tennis player hold tennis racket"]),
    ("an equestrian on a beach", ["equestrian ride horse", "equestrian sit on horse"]),
    ("a man skiing on skis", []),
    ("a chess player at a table", []),
    ("a man hits a ball with a racket", ["man look at ball", "man hit with racket", "man hold racket"]),
    ("a man eating dinner with a woman", []),
    ("a man riding a skateboard down a road", ["man skateboard on skateboard"]),
    ("a woman on a brown horse", ["woman ride horse", "woman sit on horse"]),
    ("a man on his cell phone", ["man talk on cell phone", "man hold cell phone"]),
    ("a girl reading a book", ["girl look at book", "girl hold book"]),
    ("two men sitting at a table", ["man sit on chair"]),
    ("a man sitting in a chair at a table", ["man sit on chair"]),
    ("two women drinking wine", ["woman drink with wine glass", "woman hold wine glass"]),
    ("a man riding a board", []),
    ("a monkey riding a bicycle", []),
    ("a cat on a laptop", []),
    ("a book on a bed", []),
    ("a man next to a horse", []),
])  # fmt: skip
def test_an_activity_and_what_people_do_with_a_thing_have_their_consequences(caption, wanted):
    assert sorted(implied(caption)) == sorted(wanted)


def test_a_consequence_has_the_words_and_counts_it_follows_from():
    caption = "two men sitting at a table"
    [[at, on]] = parse_captions([caption], load_parser(), implied=True)
    assert (at.rule, on.rule, on.object_lemma, on.subject_count, on.object_count) == (
        "verb-preposition", "implied", "chair", 2, 2,
    )  # fmt: skip
    assert (on.predicate_start, on.object_start) == (at.predicate_start, at.object_start)


@given(st.lists(st.sampled_from(["ride", "on", "sit on", "drink", "talk on", "read", "hold"])), st.text(max_size=20))
def test_consequences_end(predicates, noun):
    for predicate in predicates:
        found = following(predicate, noun)
        assert len(set(found)) == len(found)
        assert (predicate, noun) not in found


def test_it_is_asked_for_traceable_and_never_the_authors():
    caption = "two men skiing down a hill"
    [plain] = parse_captions([caption], load_parser())
    [found] = parse_captions([caption], load_parser(), implied=True)
    [skiing] = [t for t in found if t.rule == "implied"]
    assert [t for t in found if t.rule != "implied"] == plain
    assert caption[skiing.object_start : skiing.object_end] == "skiing"
    assert (skiing.subject_count, skiing.object_count, full_predicate(skiing)) == (2, 2, "ski on")
    assert authors_predicate(skiing) == ""


@pytest.mark.parametrize("subject, predicate, object_, wanted", [
    ("leg", "of", "man", ImpliedRelation("have", True, "possessive")),
    ("bowl", "of", "soup", ImpliedRelation("in", True, "contents")),
    ("plate", "of", "food", ImpliedRelation("on", True, "contents")),
    ("man", "'s", "hat", ImpliedRelation("have", False, "possessive")),
    ("young boy", "is dressed in", "red shirt", ImpliedRelation("wear", False, "attire")),
    ("cat", "in", "hat", ImpliedRelation("wear", False, "attire")),
    ("shoe", "in", "box", None),
    ("man", "in", "car", None),
    ("hat", "in", "suit", None),
    ("hill", "covered with", "snow", ImpliedRelation("cover", True, "covering")),
    ("woman", "with", "hair", ImpliedRelation("have", False, "possessive")),
    ("woman", "with", "dog", None),
])  # fmt: skip
def test_what_words_imply(subject, predicate, object_, wanted):
    assert reading(predicate, subject, object_) == wanted
