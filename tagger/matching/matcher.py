"""Matches nouns to the box categories of an image, by whole words from the head noun, longest phrase first."""

from collections.abc import Collection, Mapping
from functools import lru_cache

from tagger.categories import coco, objects365
from tagger.categories.hypernyms import HYPERNYMS
from tagger.categories.other_things import OTHER_THINGS
from tagger.english.nouns import phrase_lemma

_NOTHING: frozenset[str] = frozenset()


def match(noun: str, categories: Collection[str], more: Mapping[str, Collection[str]] | None = None) -> list[str]:
    """Returns the `categories` that the noun phrase names, in their given order; empty if there are none.

    `more`: further phrases by category, as lemmas (`phrase_lemma`), which count like our own synonyms.

    The phrase is read from its head (last word) and its longest known ending decides: "teddy bear" is not a bear,
    "brown teddy bear" is a teddy bear, and an unknown "dog bowl" is a bowl. A category that has the ending as its own
    name beats one that has it as a synonym, which beats the kinds of a broader word ("animal" for a dog); broader
    categories ("fire truck" for a truck) come last. Each part of a slash name ("handbag/satchel") can match.
    """
    words = phrase_lemma(noun).split()
    distinct = list(dict.fromkeys(categories))
    for start in range(len(words)):
        phrase = " ".join(words[start:])
        for names in (_own_names, _synonyms, _broader_words):
            meant = [category for category in distinct if phrase in names(category)]
            if more and names is _synonyms:
                meant = [category for category in distinct if category in meant or phrase in more.get(category, ())]
            if meant:
                return meant
        for word in _broader(phrase):
            meant = [category for category in distinct if word in _own_names(category) | _synonyms(category)]
            if meant:
                return meant
        if phrase in _known_phrases():
            return []
    return []


@lru_cache(maxsize=1 << 14)
def _own_names(category: str) -> frozenset[str]:
    aliases = _aliases()
    parts = [part for part in map(phrase_lemma, (category, *category.split("/"))) if part]
    return frozenset(parts).union(aliases[part] for part in parts if part in aliases)


@lru_cache(maxsize=1 << 14)
def _synonyms(category: str) -> frozenset[str]:
    table = _synonym_table()
    return _NOTHING.union(*(table.get(name, _NOTHING) for name in _own_names(category)))


@lru_cache(maxsize=1 << 14)
def _broader_words(category: str) -> frozenset[str]:
    names = _own_names(category)
    return frozenset(word for word, kinds in _hypernym_table().items() if names & kinds)


@lru_cache(maxsize=1 << 14)
def _broader(phrase: str) -> tuple[str, ...]:
    """Returns the broader words for what the phrase names, the word with the fewest kinds first."""
    table = _synonym_table()
    found = [
        (len(kinds), word)
        for word, kinds in _hypernym_table().items()
        if any(phrase == kind or phrase in table.get(kind, _NOTHING) for kind in kinds)
    ]
    return tuple(word for _, word in sorted(found))


@lru_cache(maxsize=1)
def _aliases() -> dict[str, str]:
    return {variant: phrase_lemma(name) for variant, name in (objects365.ALIASES | coco.ALIASES).items()}


@lru_cache(maxsize=1)
def _synonym_table() -> dict[str, frozenset[str]]:
    """Maps plain names to synonyms; a name of both data sets gets the words of both tables."""
    ours, more = _in_lemmas(coco.SYNONYMS), _in_lemmas(objects365.SYNONYMS)
    return {name: ours.get(name, _NOTHING) | more.get(name, _NOTHING) for name in ours.keys() | more.keys()}


@lru_cache(maxsize=1)
def _hypernym_table() -> dict[str, frozenset[str]]:
    return _in_lemmas(HYPERNYMS)


def _in_lemmas(table: Mapping[str, Collection[str]]) -> dict[str, frozenset[str]]:
    return {phrase_lemma(name): frozenset(map(phrase_lemma, words)) for name, words in table.items()}


@lru_cache(maxsize=1)
def _known_phrases() -> frozenset[str]:
    table = _synonym_table()
    return frozenset(table).union(*table.values()) | OTHER_THINGS
