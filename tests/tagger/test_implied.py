import pytest

from tagger.full_predicate import full_predicate
from tagger.official_triplets import as_authors_keep
from tagger.parsing import load_parser, parse_captions


def implied(caption: str) -> list[str]:
    [triplets] = parse_captions([caption], load_parser(), implied=True)
    return [f"{t.subject_lemma} {t.predicate_lemma} {t.object_lemma}" for t in triplets if t.rule == "implied"]


@pytest.mark.parametrize(
    ("caption", "wanted"),
    [
        ("a man skiing down a hill", ["man ski on ski"]),
        ("a skier in a red jacket", ["skier ski on ski"]),
        ("a surfer riding a wave", ["surfer ride surfboard", "surfer surf on surfboard"]),
        ("two women playing tennis on a court", ["woman hold tennis racket"]),
        ("a tennis player on a court", ["tennis player hold tennis racket"]),
        ("a man riding a surfboard", []),
        ("a man skiing on skis", []),
        ("a man riding a horse", []),
        ("a chess player at a table", []),
    ],
)
def test_an_activity_takes_what_it_is_done_with(caption: str, wanted: list[str]) -> None:
    assert sorted(implied(caption)) == sorted(wanted)


def test_it_is_asked_for_traceable_and_never_the_authors() -> None:
    caption = "two men skiing down a hill"
    [plain] = parse_captions([caption], load_parser())
    [found] = parse_captions([caption], load_parser(), implied=True)
    [skiing] = [t for t in found if t.rule == "implied"]
    assert [t for t in found if t.rule != "implied"] == plain
    assert caption[skiing.object_start : skiing.object_end] == "skiing"
    assert (skiing.subject_count, skiing.object_count, full_predicate(skiing)) == (2, 2, "ski on")
    assert as_authors_keep([skiing]) == []
