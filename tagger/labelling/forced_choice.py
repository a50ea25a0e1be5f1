"""Multiple-choice questions about the box pairs of an image: their wording, and how responses are read."""

from __future__ import annotations

import json
import math
import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from string import ascii_lowercase
from typing import Any, NamedTuple

from tagger.box import Box
from tagger.categories.names import without_case
from tagger.english.predicates import canonical
from tagger.labelling.posteriors import scored_labels
from tagger.labelling.tagging_image import TaggingImage
from tagger.relation import Relation

MOST_CHOICES = len(ascii_lowercase) - 1
"""One letter is left for none."""
INSTRUCTIONS = """\
The boxes in this image are numbered at their top left corners. Their left, top, right and bottom sides, in \
thousandths of
the image, are
{boxes}
What relates the first object of each pair to the second in this image? If several choices are right, take the most
specific one; if none is, take none.
{questions}
Answer with a JSON object that has the letter of one choice for each number, such as {{"1": "a"}}."""
_ANSWER = re.compile(r'"(\d+)"\s*:\s*"([a-z])"')


class Question(NamedTuple):
    """Which of the predicates holds of an ordered pair of boxes, if any."""

    subject: int
    object: int
    predicates: tuple[str, ...]

    @property
    def letters(self) -> str:
        """The letters of the choices: that of none, then one for each predicate."""
        return ascii_lowercase[: 1 + len(self.predicates)]


def questions_of(
    image: TaggingImage, usual: Mapping[str, Mapping[str, Sequence[str]]], most: int, each_label: bool = False
) -> Iterator[Question]:
    """Yields the questions about an image's candidates, each of at most `most` predicates.

    A pair's predicates compete with each other and, where there is room, with the `usual` ones of its categories.
    `usual`: subject → object → predicates, most frequent first; categories without case (`without_case`). With
    `each_label`, every label is a separate question.
    """
    for subject, object_ in image.ends:
        own = list(dict.fromkeys(p.predicate for p in image.pairs if (p.subject, p.object) == (subject, object_)))
        if not each_label:
            named = {canonical(name) for name in own}
            one, other = (without_case(image.boxes[end].category) for end in (subject, object_))
            for name in usual.get(one, {}).get(other, ()):
                # Two wordings of a predicate would share its probability.
                if len(own) < most and canonical(name) not in named:
                    named.add(canonical(name))
                    own.append(name)
        together = 1 if each_label else most
        for start in range(0, len(own), together):
            yield Question(subject, object_, tuple(own[start : start + together]))


def prompt_of(image: TaggingImage, questions: Sequence[Question]) -> str:
    """Puts questions about an image into words. Boxes count from 1, as they are marked in the image."""
    boxes = [
        f"{number + 1}: {image.boxes[number].category} {_thousandths(image.boxes[number], image)}"
        for number in boxes_in(questions)
    ]
    asked = []
    for number, (subject, object_, predicates) in enumerate(questions, start=1):
        ends = [f"{image.boxes[end].category} {end + 1}" for end in (subject, object_)]
        choices = ", ".join(map("{} {}".format, ascii_lowercase, ("none", *predicates)))
        asked.append(f"{number}. {ends[0]} and {ends[1]}: {choices}")
    return INSTRUCTIONS.format(boxes="\n".join(boxes), questions="\n".join(asked))


def boxes_in(questions: Sequence[Question]) -> list[int]:
    """The indices of the boxes that questions are about."""
    return sorted({end for question in questions for end in question[:2]})


def _thousandths(box: Box, image: TaggingImage) -> tuple[int, ...]:
    across, down = (box.x, box.x + box.w), (box.y, box.y + box.h)
    sides = (across[0] / image.width, down[0] / image.height, across[1] / image.width, down[1] / image.height)
    return tuple(round(1000 * min(max(side, 0.0), 1.0)) for side in sides)


def schema_of(questions: Sequence[Question]) -> dict[str, Any]:
    """The JSON schema of an answer."""
    properties = {str(n): {"type": "string", "enum": list(q.letters)} for n, q in enumerate(questions, start=1)}
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def chosen(text: str, questions: Sequence[Question]) -> str:
    """Returns an answer's letters, one per question. Raises ValueError, TypeError or KeyError for anything else."""
    # Models may write something around the object, such as a Markdown fence.
    answer = json.loads(text[text.index("{") : text.rindex("}") + 1])
    letters = [answer[str(number)] for number in range(1, len(questions) + 1)]
    if any(letter not in list(question.letters) for letter, question in zip(letters, questions, strict=True)):
        raise ValueError("not a choice")
    return "".join(letters)


def probabilities_of(tokens: Sequence[Mapping[str, Any]], questions: Sequence[Question]) -> list[list[float]] | None:
    """The probability of each choice of each question, in the order of its letters, from an answer's log-probabilities.

    `tokens`: those of the answer, each with the likeliest alternatives, as in `logprobs.content`. None unless they
    cover every question.
    """
    text, ends = "", []
    for token in tokens:
        text += token["token"]
        ends.append(len(text))
    places = {match[1]: match.start(2) for match in _ANSWER.finditer(text)}
    found = []
    for number, question in enumerate(questions, start=1):
        if (at := places.get(str(number))) is None:
            return None
        token, weights = tokens[bisect_right(ends, at)], dict.fromkeys(question.letters, 0.0)
        # By token, because servers list the chosen token among the alternatives, too
        for name, logarithm in {t["token"]: t["logprob"] for t in (token, *token["top_logprobs"])}.items():
            if (letter := name.strip(' "\n:,}')) in weights:
                weights[letter] += math.exp(logarithm)
        if not (total := sum(weights.values())):
            return None
        found.append([round(weight / total, 6) for weight in weights.values()])
    return found


def relations_of(
    image: TaggingImage, questions: Sequence[Question], answers: Sequence[Sequence[float]], floor: float
) -> list[Relation]:
    """The labels that score at least `floor`: candidates first, then the usual ones, which no caption proposes.

    `answers`: the probability of each choice of each question.
    """
    scores = {
        (question.subject, name, question.object): score
        for question, choices in zip(questions, answers, strict=True)
        for name, score in zip(question.predicates, choices[1:], strict=True)
    }
    labels = scored_labels(image.pairs, scores)
    for (subject, predicate, object_), score in scores.items():
        labels.setdefault((subject, object_, predicate), Relation(subject, object_, predicate, score, False, -1))
    return [one for one in labels.values() if one.score >= floor]
