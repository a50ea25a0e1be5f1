"""The authors' rule from words to categories, for comparison: any phrase that is a substring (spec pseudo_labels 2.3)."""

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

Paraphrases = Mapping[str, Sequence[str]]
"""Phrases by category, as in the authors' `hico_obj_paraphrase.json`."""


class ParaphrasesError(ValueError):
    """A dictionary of paraphrases that can't be used; the message names file, place and what is allowed."""


def match_officially(span: str, categories: Collection[str], paraphrases: Paraphrases) -> list[str]:
    """The category, of `categories` in order, whose phrase is the last to be found anywhere in the span; else none.

    "A chair" is a person by this rule, for "hair" is a phrase of person, unless a later category matches too.
    A category without paraphrases has its own name.
    """
    lowered = span.lower()
    found: list[str] = []
    for category in dict.fromkeys(categories):
        if any(phrase in lowered for phrase in paraphrases.get(category, (category,))):
            found = [category]
    return found


def read_paraphrases(path: Path) -> dict[str, list[str]]:
    """A dictionary in the authors' JSON format, {category: [phrase, ...]}. Raises ParaphrasesError."""
    try:
        given = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ParaphrasesError(f"{path}: {error}; give a JSON file {{category: [phrase, ...]}}") from error
    if not isinstance(given, dict):
        raise ParaphrasesError(f"{path}: a {type(given).__name__} where {{category: [phrase, ...]}} is needed")
    for category, listed in given.items():
        if not isinstance(listed, list) or not all(isinstance(phrase, str) and phrase for phrase in listed):
            raise ParaphrasesError(f"{path}: {category!r} has {listed!r}, a list of phrases is needed")
    return given
