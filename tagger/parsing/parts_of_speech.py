"""Caches the parts of speech of a spaCy attribute ruler, whose patterns take a fifth of the parsing time."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from spacy.attrs import DEP, IS_SPACE, LOWER, POS, TAG
from spacy.language import Language
from spacy.tokens import Doc

RULER = "attribute_ruler"

_ASKED = {"TAG", "LOWER", "DEP", "IS_SPACE"}
_CHOICES = {"IN", "NOT_IN"}

_Key = tuple[int, int, int, int, int]
"""(word, if a pattern names it; tag; label; whether it is space; label of the previous word)"""


class PartsOfSpeech:
    """Sets `pos` as the pipeline's own ruler does; tags and labels stay, lemmas and morphology are not set."""

    def __init__(self, parser: Language) -> None:
        """`parser` must satisfy `suits`."""
        self._ruler: Any = parser.get_pipe(RULER)
        self._named = {parser.vocab.strings[word] for token in _tokens(parser) for word in _words(token)}
        self._known: dict[_Key, int] = {}

    @staticmethod
    def suits(parser: Language) -> bool:
        """Whether the ruler's parts of speech depend only on what the cache key contains."""
        if RULER not in parser.pipe_names:
            return False
        are_local = all(
            len(pattern) == 1 or (len(pattern) == 2 and index == 1 and pattern[0].keys() == {"DEP"})
            for pattern, index in _patterns(parser)
        )
        return are_local and all(
            token.keys() <= _ASKED
            and all(not isinstance(asked, dict) or asked.keys() <= _CHOICES for asked in token.values())
            for token in _tokens(parser)
        )

    def __call__(self, doc: Doc) -> Doc:
        """Sets the parts of speech of a parsed document and returns it."""
        before, keys, named = 0, list[_Key](), self._named
        for word, tag, label, space in doc.to_array([LOWER, TAG, DEP, IS_SPACE]).tolist():
            keys.append((word if word in named else 0, tag, label, space, before))
            before = label
        known = self._known
        try:
            found: Any = np.array([[known[key]] for key in keys], dtype=np.uint64)
            doc.from_array([POS], found)
        except KeyError:
            self._learn(doc, keys)
        return doc

    def _learn(self, doc: Doc, keys: list[_Key]) -> None:
        self._ruler(doc)
        for token, key in zip(doc, keys, strict=True):
            # Tokens whose tag or label the ruler changes must pass through it each time.
            if (token.tag, token.dep) == key[1:3]:
                self._known[key] = token.pos


def _patterns(parser: Language) -> Iterator[tuple[list[dict[str, Any]], int]]:
    """Yields the patterns that decide a part of speech, each with the position of the token that it applies to."""
    ruler: Any = parser.get_pipe(RULER)
    for rule in ruler.patterns:
        if "POS" in rule["attrs"]:
            for pattern in rule["patterns"]:
                yield pattern, rule["index"]


def _tokens(parser: Language) -> Iterator[dict[str, Any]]:
    return (token for pattern, _ in _patterns(parser) for token in pattern)


def _words(token: dict[str, Any]) -> Iterator[str]:
    asked = token.get("LOWER", ())
    if isinstance(asked, str):
        yield asked
    elif isinstance(asked, dict):
        for words in asked.values():
            yield from words
