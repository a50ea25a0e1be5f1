"""Wraps lemminflect and loads it on first use.

lemminflect imports spaCy, and with it torch, only to add methods to spaCy's tokens that nobody here calls: seconds and 200 MB
that a command which looks up a few verbs need not spend.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from functools import cache
from types import ModuleType


def known_lemmas(word: str, part: str) -> tuple[str, ...]:
    """Returns the lemmas in the dictionary for a word as `part` ("NOUN", "VERB"); none for an unknown word."""
    return tuple(_lemminflect().getAllLemmas(word, upos=part).get(part, ()))


def likeliest_lemma(word: str, part: str) -> str:
    """Returns the lemma of a word as `part`, derived by rules when the word is not in the dictionary."""
    return str(_lemminflect().getLemma(word, part)[0])


def inflections(lemma: str, tag: str) -> tuple[str, ...]:
    """Returns the forms of a lemma for a Penn tag, e.g. "VBN"."""
    return tuple(_lemminflect().getInflection(lemma, tag))


class _NoSpacy:
    """Lets an import of spaCy by one thread fail as if it were not installed, which lemminflect allows for."""

    def __init__(self) -> None:
        self._thread = threading.get_ident()

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> None:
        if name == "spacy" and threading.get_ident() == self._thread:
            raise ModuleNotFoundError("not needed here", name=name)


@cache
def _lemminflect() -> ModuleType:
    finder = _NoSpacy()
    sys.meta_path.insert(0, finder)
    try:
        import lemminflect
    finally:
        sys.meta_path.remove(finder)
    return lemminflect  # type: ignore[no-any-return]
