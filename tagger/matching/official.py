"""Matches words to categories by substrings, as the authors do (docs/labels.md, Other ways to candidates)."""

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

Paraphrases = Mapping[str, Sequence[str]]
"""Phrases by category, as in the authors' `hico_obj_paraphrase.json`."""


class ParaphrasesError(ValueError):
    """A dictionary of paraphrases cannot be used; the message names the file, the position and the expected format."""


def match_officially(span: str, categories: Collection[str], paraphrases: Paraphrases) -> list[str]:
    """Returns the last of `categories` that has a phrase anywhere in the span; empty if there is none.

    By this rule "a chair" is a person, because "hair" is a phrase of person, unless a later category matches too.
    A category without paraphrases matches by its own name.
    """
    lowered = span.lower()
    found: list[str] = []
    for category in dict.fromkeys(categories):
        if any(phrase in lowered for phrase in paraphrases.get(category, (category,))):
            found = [category]
    return found


def read_paraphrases(path: Path) -> dict[str, list[str]]:
    """Reads the authors' JSON format, {category: [phrase, ...]}. Raises ParaphrasesError for any other file."""
    try:
        given = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ParaphrasesError(f"{path}: {error}; give a JSON file {{category: [phrase, ...]}}") from error
    if not isinstance(given, dict):
        raise ParaphrasesError(f"{path}: holds a {type(given).__name__}; give a JSON file {{category: [phrase, ...]}}")
    for category, listed in given.items():
        if not isinstance(listed, list) or not all(isinstance(phrase, str) and phrase for phrase in listed):
            raise ParaphrasesError(f"{path}: {category!r} maps to {listed!r}; give a list of phrases")
    return given
