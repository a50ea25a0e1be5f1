"""Lemmas of nouns and verbs without a parser: the same for captions, category names and predicates."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Sequence
from functools import cache, lru_cache
from types import ModuleType

from tagger.english.words import words


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
    # lemminflect imports spaCy where it is installed, and spaCy torch: time and memory that lemmas don't need.
    finder = _NoSpacy()
    sys.meta_path.insert(0, finder)
    try:
        import lemminflect
    finally:
        sys.meta_path.remove(finder)
    return lemminflect  # type: ignore[no-any-return]


WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")

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
    "oxen": "ox",
    "veggies": "veggie",
    "tshirt": "t-shirt",
    "tshirts": "t-shirt",
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
    tokens = WORD.findall(phrase.replace("_", " ").lower())
    if not tokens:
        return ""
    head = "glass" if tokens[-1] == "glasses" and tokens[-2:-1] and tokens[-2] in _DRINKS else noun_lemma(tokens[-1])
    return " ".join([*tokens[:-1], head])


# Forms that are also verbs themselves ("to saw", "to found"): captions mean the inflected reading.
_IRREGULAR = {
    "saw": "see",
    "found": "find",
    "felt": "feel",
    "fell": "fall",
    "wound": "wind",
    "bound": "bind",
    "ground": "grind",
    "lay": "lie",
    "lays": "lie",
    "laying": "lie",
    "laid": "lie",
    "rose": "rise",
    "seated": "sit",
}


@lru_cache(maxsize=1 << 14)
def verb_lemma(word: str) -> str:
    """Returns the verb lemma of a lower-case word ("rode" and "riding" give "ride"); unknown words stay unchanged."""
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    lemmas = known_lemmas(word, "VERB")
    if lemmas and word not in lemmas:
        return str(lemmas[0])
    if not lemmas and len(word) > 5 and word.endswith(("ing", "ed")) and word.isascii():
        return likeliest_lemma(word, "VERB")
    return word


def participle(word: str) -> str:
    """Returns the past participle of any form of a verb ("holds" gives "held")."""
    return inflections(verb_lemma(word), "VBN")[0]
