import json

import pytest

from tagger.matching.official import ParaphrasesError, match_officially, read_paraphrases

PHRASES = {"person": ["man", "hair"], "chair": ["chair"], "oven": ["oven", "range"], "hot dog": ["hot dog"]}


@pytest.mark.parametrize(
    ("span", "categories", "wanted"),
    [
        ("a man", ["person", "chair"], ["person"]),
        ("a chair", ["person", "oven"], ["person"]),
        ("a chair", ["person", "chair"], ["chair"]),
        ("a chair", ["chair", "person"], ["person"]),
        ("an Orange shirt", ["oven"], ["oven"]),
        ("a hot dog", ["dog"], ["dog"]),
        ("a cup", ["person", "oven"], []),
        ("", ["person"], []),
    ],
)
def test_the_last_category_with_a_substring(span: str, categories: list[str], wanted: list[str]) -> None:
    assert match_officially(span, categories, PHRASES) == wanted


def test_the_authors_dictionaries_are_read(shared) -> None:
    phrases = read_paraphrases(shared / "data/rlipv2_priors/hico_obj_paraphrase.json")
    assert match_officially("a wooden chair", ["person"], phrases) == ["person"]


@pytest.mark.parametrize("text", ["", "[1]", '{"dog": "puppy"}', '{"dog": [1]}', '{"dog": [""]}', "\xff"])
def test_other_files_are_refused_with_their_name(tmp_path, text: str) -> None:
    path = tmp_path / "phrases.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(ParaphrasesError, match=r"phrases\.json"):
        read_paraphrases(path)


def test_a_good_file_round_trips(tmp_path) -> None:
    path = tmp_path / "phrases.json"
    path.write_text(json.dumps(PHRASES))
    assert read_paraphrases(path) == PHRASES
