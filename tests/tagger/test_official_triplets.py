from benchmarks.authors_parser import to_authors_triplets
from tagger.parsing.parser import load_parser, parse_captions


def kept(caption: str) -> list[str]:
    [triplets] = parse_captions([caption], load_parser())
    return [f"{t.subject_lemma} {t.predicate_lemma} {t.object_lemma}" for t in to_authors_triplets(triplets)]


def test_a_verb_loses_itself_to_its_preposition() -> None:
    assert kept("a woman playing in a room") == ["woman in room"]
    assert kept("a man standing in front of a car") == ["man in front of car"]


def test_a_verb_with_an_object_stays_as_written() -> None:
    assert kept("a man is riding a horse") == ["man riding horse"]
    assert kept("a horse ridden by a man") == ["man ridden horse"]


def test_what_words_imply_is_not_theirs() -> None:
    assert kept("a man in a suit") == []
