import json
import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from tagger.categories.names import COCO, OBJECTS365
from tagger.english.lemmas import noun_lemma, phrase_lemma
from tagger.matching import AuthorsFileError, by_whole_words, is_spoken_of, match, match_by_substrings, read_paraphrases

MORE = tuple(OBJECTS365)
NOUNS = tomllib.loads(Path(__file__).with_name("nouns.toml").read_text())


@pytest.mark.parametrize("noun, wanted", [
    ("chair", ["chair"]), ("hair", []), ("orange", ["orange"]), ("range", []), ("orange shirt", []), ("bus", ["bus"]),
    ("bush", []), ("scarf", []), ("cowboy", ["person"]), ("beard", []), ("shopping cart", []),
    ("german shepherd", ["dog"]), ("hot dog", ["hot dog"]), ("hotdog", ["hot dog"]), ("dog", ["dog"]),
    ("teddy bear", ["teddy bear"]), ("brown teddy bears", ["teddy bear"]), ("bear", ["bear"]), ("men", ["person"]),
    ("people", ["person"]), ("tennis player", ["person"]), ("knives", ["knife"]), ("bike", ["bicycle", "motorcycle"]),
    ("glasses", []), ("glass", ["wine glass", "cup"]), ("wine glasses", ["wine glass"]), ("skis", ["skis"]),
    ("ski", ["skis"]), ("street light", []), ("traffic lights", ["traffic light"]), ("sofa", ["couch"]),
    ("cell phone", ["cell phone"]), ("tennis racquet", ["tennis racket"]), ("dining table", ["dining table"]),
    ("coffee table", ["dining table"]), ("fire truck", ["truck"]), ("fruit", ["banana", "apple", "orange"]),
    ("football", ["sports ball"]), ("dog bowl", ["bowl"]), ("car door", []), ("baseball bat", ["baseball bat"]),
    ("plastic bag", []), ("", []), ("🐎", []),
    ("stop signs", ["stop sign"]), ("veggies", ["broccoli", "carrot"]), ("oxen", ["cow"]), ("turkey", ["bird"]),
    ("bar stool", ["chair"]), ("tugboat", ["boat"]), ("barge", ["boat"]), ("beagle", ["dog"]), ("husky", ["dog"]),
    ("tabby", ["cat"]), ("limousine", ["car"]), ("station wagon", ["car"]), ("steam engine", ["train"]),
    ("pit bull", ["dog"]), ("elephant calf", ["elephant"]), ("whale calf", []), ("jet ski", []), ("one way sign", []),
    ("yellow sign", []), ("red sign", ["stop sign"]), ("christmas lights", []), ("disco ball", []),
    ("boxing glove", []), ("badminton racquet", []), ("toy giraffe", []), ("rubber duck", []),
    ("stuffed giraffe", ["teddy bear"]), ("potted fern", ["potted plant"]), ("black cat", ["cat"]),
    ("teddybear", ["teddy bear"]), ("book case", []), ("horse trailer", []), ("apple slices", ["apple"]),
    ("horse herd", ["horse"]), ("plush dog", ["teddy bear"]), ("boxer puppy", ["dog"]), ("motor-bike", ["motorcycle"]),
    ("man's glove", ["baseball glove"]), ("3 balls", ["sports ball"]), ("carry-on", ["suitcase"]),
    ("blue jacket", []), ("black shirt", []),
    ("bicycle seat", []), ("lynx", []), ("bobcat", []), ("birdbath", []), ("roast turkey", []), ("telephone wire", []),
    ("bowler hat", []), ("bowler", ["person"]), ("cow herd", ["cow"]),
])  # fmt: skip
def test_nouns_to_coco_categories(noun, wanted):
    assert match(noun, COCO) == wanted


def test_every_coco_category_matches_itself_alone():
    assert [category for category in COCO if match(category, COCO) != [category]] == []


ACCURACY = 0.97


def cases_of(table: str) -> list[tuple[str, str]]:
    """The category and noun of each case in a table of nouns.toml."""
    return [(category, noun) for category, nouns in NOUNS[table].items() for noun in nouns.split(", ")]


def test_nouns_that_name_a_category_are_found():
    cases = cases_of("matches")
    wrong = [
        f"{noun} is a {category}"
        for category, noun in cases
        if category not in match(noun, [category]) or (category in COCO and category not in match(noun, COCO))
    ]
    assert len(cases) >= 300
    assert len(wrong) <= (1 - ACCURACY) * len(cases), wrong


def test_nouns_that_only_look_like_a_category_are_not():
    cases = cases_of("traps")
    wrong = [
        f"{noun} is not a {category}"
        for category, noun in cases
        if any(category in match(noun, names) for names in ([category], COCO, [category, *MORE]))
    ]
    assert len(cases) >= 300
    assert wrong == []


def test_nouns_written_apart_from_the_tables_are_read_alike():
    names, others = cases_of("unseen_matches"), cases_of("unseen_others")
    rejected = [f"{noun} is a {category}" for category, noun in names if category not in match(noun, COCO)]
    accepted = [f"{noun} is no {category}" for category, noun in others if category in match(noun, COCO)]
    assert len(rejected) <= 0.03 * len(names), rejected
    assert len(accepted) <= 0.03 * len(others), accepted


@pytest.mark.parametrize("surface, lemma, wanted", [
    ("a rocking horse", "horse", []), ("a cricket bat", "bat", []), ("a Yellow sign", "sign", []),
    ("two glasses", "glass", ["wine glass", "cup"]), ("He", "man", ["person"]),
])  # fmt: skip
def test_words_that_the_lemma_lacks_say_what_a_noun_means(surface, lemma, wanted):
    assert by_whole_words(surface, lemma, COCO) == wanted


def test_categories_that_no_noun_names_are_known():
    assert all(map(is_spoken_of, [*COCO, *MORE, "waterfowl", "cat/feline"]))
    assert not any(map(is_spoken_of, ["class_17", "xk", "n02123045"]))


NAMES = ("Waterfowl", "insect", "rodent", "glove")
FOREIGN = ("handbag/satchel", "Wild Bird", "dining_table", "Monitor/TV", "dinning table")


@pytest.mark.parametrize("noun, categories, wanted", [
    ("mallard", NAMES, ["Waterfowl"]), ("beetles", NAMES, ["insect"]), ("boxing glove", NAMES, ["glove"]),
    ("range", NAMES, []),
    # A known longer name is never its head noun.
    ("teddy bear", ["bear"], []), ("hot dog", ["dog"], []), ("stuffed animals", ["animal"], []),
    ("plush animal", ["animal", "Stuffed Toy"], ["Stuffed Toy"]),
    ("wooden baseball bat", ["baseball bat", "bat"], ["baseball bat"]),
    ("bike", ["motorcycle", "person"], ["motorcycle"]), ("woman", ["dog"], []), ("dog", ["dog", "cat", "dog"], ["dog"]),
    ("satchel", FOREIGN, ["handbag/satchel"]), ("purse", FOREIGN, ["handbag/satchel"]),
    ("wild birds", FOREIGN, ["Wild Bird"]), ("television", FOREIGN, ["Monitor/TV"]),
    ("table", FOREIGN, ["dining_table", "dinning table"]),
    # A category's own name beats a synonym.
    ("herd", ["herd"], ["herd"]), ("man", ["person", "man"], ["man"]), ("woman", ["person", "man"], ["person"]),
])  # fmt: skip
def test_nouns_to_the_categories_of_any_set(noun, categories, wanted):
    assert match(noun, categories) == wanted


def test_every_objects365_name_matches_itself_alone(shared):
    listed = json.loads((shared / "data/rlipv2_priors/o365_categories.json").read_text())
    names = [entry["name"].lower().strip() for entry in listed]
    assert [name for name in names if match(name, names) != [name]] == []


@settings(max_examples=200)
@given(st.text(max_size=30), st.lists(st.text(max_size=12), max_size=4))
def test_matching_never_fails_and_gives_a_subset(noun, categories):
    found = match(noun, categories)
    assert set(found) <= set(categories)
    assert len(found) == len(set(found))


@pytest.mark.parametrize(
    ("word", "wanted"),
    [("geese", "goose"), ("women", "woman"), ("buses", "bus"), ("bus", "bus"), ("tvs", "tv"), ("scissors", "scissors"),
     ("sheep", "sheep"), ("grass", "grass"), ("leaves", "leaf"), ("jeans", "jeans"), ("mice", "mouse")],
)  # fmt: skip
def test_singulars(word, wanted):
    assert noun_lemma(word) == wanted
    assert phrase_lemma(f"Two_{word.upper()}") == f"two {wanted}"


PHRASES = {"person": ["man", "hair"], "chair": ["chair"], "oven": ["oven", "range"], "hot dog": ["hot dog"]}


@pytest.mark.parametrize("span, categories, wanted", [
    ("a man", ["person", "chair"], ["person"]), ("a chair", ["person", "oven"], ["person"]),
    ("a chair", ["person", "chair"], ["chair"]), ("a chair", ["chair", "person"], ["person"]),
    ("an Orange shirt", ["oven"], ["oven"]), ("a hot dog", ["dog"], ["dog"]), ("a cup", ["person", "oven"], []),
    ("", ["person"], []),
])  # fmt: skip
def test_the_last_category_with_a_substring(span, categories, wanted):
    assert match_by_substrings(span, categories, PHRASES) == wanted


def test_the_authors_dictionaries_are_read(shared):
    phrases = read_paraphrases(shared / "data/rlipv2_priors/hico_obj_paraphrase.json")
    assert match_by_substrings("a wooden chair", ["person"], phrases) == ["person"]


def test_a_good_file_round_trips_and_others_are_refused_with_their_name(tmp_path):
    path = tmp_path / "phrases.json"
    path.write_text(json.dumps(PHRASES))
    assert read_paraphrases(path) == PHRASES
    for text in ("", "[1]", '{"dog": "puppy"}', '{"dog": [1]}', '{"dog": [""]}', "\xff"):
        path.write_text(text, encoding="latin-1")
        with pytest.raises(AuthorsFileError, match=r"phrases\.json"):
            read_paraphrases(path)
