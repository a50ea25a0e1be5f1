"""Questions about pairs of boxes, and the probabilities that an answer gives."""

import math
from dataclasses import replace

import pytest

from tagger.box import Box
from tagger.labelling.forced_choice import (
    Question,
    chosen,
    probabilities_of,
    prompt_of,
    questions_of,
    relations_of,
    schema_of,
)
from tagger.labelling.tagging_image import TaggingImage
from tagger.pair import Pair

BOXES = [Box("person", 0, 0, 50, 100), Box("horse", 25, 50, 100, 50), Box("dog", 0, 0, 10, 10)]
PAIRS = [
    Pair(0, 1, "ride", 0, 1, mention=0, prior=1.0), Pair(0, 1, "on", 1, 1, mention=1, prior=1.0),
    Pair(0, 1, "ride", 2, 1, mention=2, prior=0.5), Pair(2, 1, "near", 3, 1, mention=3, prior=1.0),
]  # fmt: skip
IMAGE = TaggingImage(100, 100, BOXES, PAIRS, (100, 100), lambda: pytest.fail("no pixels are read"))
USUAL = {"person": {"horse": ["on", "feed", "lead", "wash"]}}


def test_predicates_of_a_pair_compete_with_the_usual_ones_as_far_as_there_is_room():
    assert list(questions_of(IMAGE, USUAL, 4)) == [
        Question(0, 1, ("ride", "on", "feed", "lead")), Question(2, 1, ("near",)),
    ]  # fmt: skip
    cased = replace(IMAGE, boxes=[replace(box, category=box.category.title()) for box in BOXES])
    assert next(questions_of(cased, USUAL, 4)).predicates == ("ride", "on", "feed", "lead")
    assert list(questions_of(IMAGE, USUAL, 1))[:2] == [Question(0, 1, ("ride",)), Question(0, 1, ("on",))]
    wordings = {"person": {"horse": ["rides", "feeding", "is feeding", "wash"]}}
    assert next(questions_of(IMAGE, wordings, 4)).predicates == ("ride", "on", "feeding", "wash")
    worded = replace(IMAGE, pairs=[replace(PAIRS[0], predicate="is riding")])
    assert next(questions_of(worded, wordings, 4)).predicates == ("is riding", "feeding", "wash")
    assert [q.predicates for q in questions_of(IMAGE, USUAL, 4, each_label=True)] == [("ride",), ("on",), ("near",)]


def test_a_prompt_names_boxes_by_their_numbers_and_sides_and_lists_the_choices():
    words = prompt_of(IMAGE, list(questions_of(IMAGE, {}, 4)))
    assert "\n1: person (0, 0, 500, 1000)\n2: horse (250, 500, 1000, 1000)\n3: dog (0, 0, 100, 100)\n" in words
    assert "\n1. person 1 and horse 2: a none, b ride, c on\n2. dog 3 and horse 2: a none, b near\n" in words


def tokens(*found: tuple[str, dict[str, float]]) -> list[dict[str, object]]:
    """Tokens with the probabilities of their alternatives."""
    return [
        {
            "token": token, "logprob": math.log(odds.get(token, 1.0)),
            "top_logprobs": [{"token": each, "logprob": math.log(share)} for each, share in odds.items()],
        }
        for token, odds in found
    ]  # fmt: skip


def test_probabilities_are_those_of_the_letters_wherever_tokens_end():
    questions = list(questions_of(IMAGE, {}, 4))
    split = tokens(
        ('{"1":', {}), (' "', {}), ("b", {"b": 0.6, "c": 0.2, "z": 0.2}), ('", "', {}), ("2", {}), ('": ', {}),
        ('"a"', {'"a"': 0.1, '"b"': 0.3, "none": 0.6}), ("}", {}),
    )  # fmt: skip
    first, second = probabilities_of(split, questions)
    assert first == pytest.approx([0.0, 0.75, 0.25]) and second == pytest.approx([0.25, 0.75])
    assert probabilities_of(split[:4], questions) is None and probabilities_of([], questions) is None
    labels = relations_of(IMAGE, questions, [first, second], 0.0)
    assert [(r.predicate, r.score, r.triplet, r.posterior) for r in labels] == [
        ("ride", 0.75, 0, 1.0), ("on", 0.25, 1, 1.0), ("near", 0.75, 3, 1.0),
    ]  # fmt: skip
    assert [r.predicate for r in relations_of(IMAGE, questions, [first, second], 0.5)] == ["ride", "near"]


def test_an_answer_that_names_no_choice_of_each_question_is_refused():
    questions = list(questions_of(IMAGE, {}, 4))
    assert chosen('```json\n{"1": "c", "2": "a"}\n```', questions) == "ca"
    answers = '{"1": "c"}', '{"1": "c", "2": "c"}', '{"1": "", "2": "a"}', '["c", "a"]', "c, a", '{"1": 2, "2": "a"}'
    for text in answers:
        with pytest.raises((ValueError, KeyError, TypeError)):
            chosen(text, questions)
    assert schema_of(questions)["properties"]["1"]["enum"] == ["a", "b", "c"]
