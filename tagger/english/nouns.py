"""Computes noun lemmas without a parser: singular, lower case, the same for captions and category names."""

import re
from functools import lru_cache

from tagger.english.inflection import known_lemmas, likeliest_lemma
from tagger.english.words import words

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")

# Words that lemminflect reads in another sense than captions: eyewear is not a drinking glass.
_OVERRIDES = {
    "people": "person",
    "persons": "person",
    "glasses": "glasses",
    "sunglasses": "sunglasses",
    "eyeglasses": "glasses",
    "leaves": "leaf",
    "pants": "pants",
    "shorts": "shorts",
    "jeans": "jeans",
    "goggles": "goggles",
    "headphones": "headphones",
    "scissors": "scissors",
    "fries": "fries",
    "greens": "greens",
}

_DRINKS = words("wine shot beer champagne water drinking martini cocktail juice")


@lru_cache(maxsize=1 << 15)
def noun_lemma(word: str) -> str:
    """Returns the singular of a word ("knives": "knife"); unknown words lose a regular plural ending; never raises."""
    word = word.lower()
    if word in _OVERRIDES:
        return _OVERRIDES[word]
    lemmas = known_lemmas(word, "NOUN")
    if word in lemmas or not word.isascii():
        return word
    if lemmas:
        return str(lemmas[0])
    if len(word) > 2 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return likeliest_lemma(word, "NOUN")
    return word


@lru_cache(maxsize=1 << 15)
def phrase_lemma(phrase: str) -> str:
    """Returns a noun phrase or category name in lower case, its last word singular ("Stop_Signs" gives "stop sign")."""
    tokens = _WORD.findall(phrase.replace("_", " ").lower())
    if not tokens:
        return ""
    head = "glass" if tokens[-1] == "glasses" and tokens[-2:-1] and tokens[-2] in _DRINKS else noun_lemma(tokens[-1])
    return " ".join([*tokens[:-1], head])
