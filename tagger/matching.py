"""Nouns of captions to the box categories of one image, by whole words from the head noun, longest phrase first."""

from collections.abc import Collection
from functools import lru_cache

from tagger.categories import ALIASES, OTHER_THINGS, SYNONYMS
from tagger.nouns import phrase_lemma


def match(noun: str, categories: Collection[str]) -> list[str]:
    """Those of `categories` that the noun phrase names, in their given order; empty if none.

    The phrase is read from its head (last word) and its longest known ending decides: "teddy bear" is not a bear,
    "brown teddy bear" is a teddy bear, and an unknown "dog bowl" is a bowl. A category that has the ending as its own
    name beats one that has it as a synonym. Slash names ("handbag/satchel") are matched by each part.
    """
    words = phrase_lemma(noun).split()
    distinct = list(dict.fromkeys(categories))
    for start in range(len(words)):
        phrase = " ".join(words[start:])
        named = [category for category in distinct if phrase in _own_names(category)]
        if named:
            return named
        meant = [category for category in distinct if phrase in _synonyms(category)]
        if meant:
            return meant
        if phrase in _known_phrases():
            return []
    return []


@lru_cache(maxsize=1 << 14)
def _own_names(category: str) -> frozenset[str]:
    parts = [phrase_lemma(part) for part in (category, *category.split("/"))]
    return frozenset(ALIASES.get(part, part) for part in parts if part) | frozenset(part for part in parts if part)


@lru_cache(maxsize=1 << 14)
def _synonyms(category: str) -> frozenset[str]:
    table = _synonym_table()
    return frozenset(phrase for name in _own_names(category) for phrase in table.get(name, ()))


@lru_cache(maxsize=1)
def _synonym_table() -> dict[str, frozenset[str]]:
    return {phrase_lemma(name): frozenset(map(phrase_lemma, words)) for name, words in SYNONYMS.items()}


@lru_cache(maxsize=1)
def _known_phrases() -> frozenset[str]:
    table = _synonym_table()
    return frozenset(table).union(*table.values()) | OTHER_THINGS
