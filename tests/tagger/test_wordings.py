import pytest

from tagger.parsing.parser import load_parser, parse_captions
from tagger.parsing.wordings import authors_predicate, full_form, full_predicate


@pytest.mark.parametrize("text, wanted", [
    ("is standing in front of the", "stand in front of"), ("SITS on", "sit on"),
    ("laying on top of", "lie on top of"), ("underneath", "under"), ("directly behind", "behind"), ("is", "be"),
    ("", "be"), ("🐎", "be"),
])  # fmt: skip
def test_every_preposition_stays(text, wanted):
    assert full_form(text) == wanted


@pytest.mark.parametrize("caption, wanted", [
    ("a man standing in front of a car", "stand in front of"), ("a horse ridden by a man", "ride"),
    ("a man in a suit", "wear"), ("the leg of a chair", "have"), ("a lake surrounding a house", "surround"),
])  # fmt: skip
def test_full_predicate_of_a_caption(caption, wanted):
    [[triplet]] = parse_captions([caption], load_parser())
    assert full_predicate(triplet) == wanted


@pytest.mark.parametrize(
    ("caption", "wanted"),
    [
        # A verb gives way to its preposition.
        ("a woman playing in a room", "in"),
        ("a man standing in front of a car", "in front of"),
        # A verb with an object stays as written.
        ("a man is riding a horse", "riding"),
        ("a horse ridden by a man", "ridden"),
        # The authors' rules don't find what the words only imply.
        ("a man in a suit", ""),
    ],
)
def test_the_authors_wording_of_a_caption(caption, wanted):
    [[triplet]] = parse_captions([caption], load_parser())
    assert authors_predicate(triplet) == wanted
