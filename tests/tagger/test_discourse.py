"""Captions of several sentences state what their pronouns and definite nouns mean."""

import pytest

from benchmarks.parsing import read_documents, score
from tagger.parsing.layer import load_layer
from tagger.parsing.parser import load_parser, parse_captions
from tagger.triplet import Triplet
from tests.tagger.test_parsing import check_spans, stated

CASES = {
    # pronouns
    "A man is riding a horse. He is wearing a hat.": "man ride horse; man wear hat",
    "A man holds a cup. A woman is next to him. She wears a hat.": "man hold cup; woman next to man; woman wear hat",
    "A dog is on the grass. A man holds a ball and throws it.": "dog on grass; man hold ball; man throw ball",
    "The dog looks at the man. The cat is next to him. He holds it.": "dog look at man; cat next to man; man hold cat",
    "A boy is flying a kite. His sister is watching him.": "boy fly kite; boy have sister; sister watch boy",
    "A person is on a chair. They are holding a phone.": "person on chair; person hold phone",
    "A dog is in a car. She is wearing a scarf.": "dog in car; dog wear scarf",
    "There is a bench with a cat on it. A bird is behind it.": "cat on bench; bird behind bench",
    # several things
    "Two men sit on a bench. They wear hats. A dog is next to them.": "man sit on bench; man wear hat; dog next to man",
    "A man and a woman are at a table. They look at a laptop.": (
        "man at table; woman at table; man look at laptop; woman look at laptop"
    ),
    "Two cats are on a couch. One is looking at a dog. The other is under a blanket.": (
        "cat on couch; cat look at dog; cat under blanket"
    ),
    "Two women are on a bench. They are next to each other.": "woman on bench; woman next to woman",
    "Three men are in a kitchen. Two of them are holding cups.": "man in kitchen; man hold cup",
    "Two elephants are in a field. The first has tusks. One follows a bird.": "elephant in field; elephant follow bird",
    # nobody that was mentioned
    "A street is next to a park. It's a sunny day. He is wearing a hat.": "street next to park; man wear hat",
    # neither denied nor guessed
    "There are two benches. No one is sitting on them.": "",
    "A man is on a horse. He isn't wearing a hat. It never jumps over a fence.": "man on horse",
    "A man might be holding a cup. He appears to be looking at a dog. He is possibly wearing a tie.": "",
    # no end of a sentence
    "Mr. man wears a hat next to st. bernard dogs.": "man wear hat; man next to dog",
}


def parsed(caption: str) -> list[Triplet]:
    return parse_captions([caption], load_parser(), layer=load_layer())[0]


@pytest.mark.parametrize("caption", CASES)
def test_a_text_gives_exactly_these_triplets_at_their_places(caption: str) -> None:
    triplets = parsed(caption)
    assert stated(triplets) == {text for text in CASES[caption].split("; ") if text}
    check_spans(caption, triplets)


def test_a_pronoun_or_definite_noun_has_place_count_and_attributes_of_the_first_mention() -> None:
    *_, worn, held = parsed("Two tall men are on a bench. They are wearing hats. The men are holding a rope.")
    for t in (worn, held):
        assert (t.subject, t.subject_start, t.subject_count, t.subject_attributes) == ("Two tall men", 0, 2, ("tall",))


def test_other_things_of_the_same_name_stay_apart() -> None:
    text = "A man is on a bench. Two men are on horses. The man is holding a cup. Two of them are near a tall man."
    ends = [
        (t.subject, t.subject_count, t.object) for t in parsed(f"{text} One is near a dog. The short man is on a bus.")
    ]
    assert ends == [
        ("A man", 1, "a bench"), ("Two men", 2, "horses"), ("A man", 1, "a cup"), ("Two", 2, "a tall man"),
        ("One", 1, "a dog"), ("The short man", 1, "a bus"),
    ]  # fmt: skip


def test_what_is_repeated_is_stated_once() -> None:
    [ride, wear] = parsed("A man rides a horse. The man who is riding the horse is wearing a hat.")
    assert (ride.predicate_lemma, wear.predicate_lemma) == ("ride", "wear")
    assert len(parsed("A cup is on a table. A cup is on a table.")) == 2


def test_what_a_pronoun_implies_may_be_about_another_thing() -> None:
    [triplets] = parse_captions(["A table is in a room. A man sits at it."], load_parser(), implied=True)
    assert [(t.predicate_lemma, t.object_lemma) for t in triplets] == [
        ("in", "room"), ("sit at", "table"), ("sit on", "chair"),
    ]  # fmt: skip


def test_documents_of_the_synthetic_world_are_read_as_well_as_their_sentences() -> None:
    _, wanted, alone, found = zip(*read_documents(scenes=15), strict=True)
    every, one_by_one = ([set().union(*stated) for stated in each] for each in (wanted, alone))
    for share, limit in zip(score(found, every), score(one_by_one, every), strict=True):
        assert share >= 0.95 * limit
