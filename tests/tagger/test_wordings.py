import pytest

from tagger.parsing.parser import load_parser, parse_captions
from tagger.parsing.wordings import WORDINGS, full_form


@pytest.mark.parametrize("text, wanted", [
    ("is standing in front of the", "stand in front of"), ("SITS on", "sit on"),
    ("laying on top of", "lie on top of"), ("underneath", "under"), ("directly behind", "behind"), ("is", "be"),
    ("", "be"), ("🐎", "be"),
])  # fmt: skip
def test_every_preposition_stays(text, wanted):
    assert full_form(text) == wanted


@pytest.mark.parametrize("caption, canonical, full, official", [
    # The authors' verbs give way to their prepositions.
    ("a man standing in front of a car", "in front of", "stand in front of", "in front of"),
    ("a woman playing in a room", "play in", "play in", "in"),
    # A verb with an object stays as written.
    ("a man is riding a horse", "ride", "ride", "riding"), ("a horse ridden by a man", "ride", "ride", "ridden"),
    # The authors' rules don't find what the words only imply.
    ("a man in a suit", "wear", "wear", ""), ("the leg of a chair", "have", "have", ""),
    ("a lake surrounding a house", "surround", "surround", "surrounding"),
])  # fmt: skip
def test_a_predicate_in_each_wording(caption, canonical, full, official):
    [[triplet]] = parse_captions([caption], load_parser())
    found = {name: wording(triplet) for name, wording in WORDINGS.items()}
    assert found == {"canonical": canonical, "full": full, "official": official}
