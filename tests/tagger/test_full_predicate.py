import pytest

from tagger.parsing.full_predicate import full_form, full_predicate
from tagger.parsing.parser import load_parser, parse_captions
from tagger.parsing.readings import Reading, reading


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("is standing in front of the", "stand in front of"),
        ("SITS on", "sit on"),
        ("laying on top of", "lie on top of"),
        ("underneath", "under"),
        ("directly behind", "behind"),
        ("is", "be"),
        ("", "be"),
        ("🐎", "be"),
    ],
)
def test_every_preposition_stays(text: str, wanted: str) -> None:
    assert full_form(text) == wanted


@pytest.mark.parametrize(
    ("caption", "wanted"),
    [
        ("a man standing in front of a car", "stand in front of"),
        ("a horse ridden by a man", "ride"),
        ("a man in a suit", "wear"),
        ("the leg of a chair", "have"),
        ("a lake surrounding a house", "surround"),
    ],
)
def test_full_predicate_of_a_caption(caption: str, wanted: str) -> None:
    [[triplet]] = parse_captions([caption], load_parser())
    assert full_predicate(triplet) == wanted


@pytest.mark.parametrize(
    ("subject", "predicate", "object_", "wanted"),
    [
        ("leg", "of", "man", Reading("have", True, "possessive")),
        ("bowl", "of", "soup", Reading("in", True, "contents")),
        ("plate", "of", "food", Reading("on", True, "contents")),
        ("man", "'s", "hat", Reading("have", False, "possessive")),
        ("young boy", "is dressed in", "red shirt", Reading("wear", False, "attire")),
        ("cat", "in", "hat", Reading("wear", False, "attire")),
        ("shoe", "in", "box", None),
        ("man", "in", "car", None),
        ("hat", "in", "suit", None),
        ("hill", "covered with", "snow", Reading("cover", True, "covering")),
        ("woman", "with", "hair", Reading("have", False, "possessive")),
        ("woman", "with", "dog", None),
    ],
)
def test_what_words_imply(subject: str, predicate: str, object_: str, wanted: Reading | None) -> None:
    assert reading(predicate, subject, object_) == wanted
