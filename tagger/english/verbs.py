"""Computes verb lemmas without a parser, in the sense that captions use."""

from functools import lru_cache

from tagger.english.inflection import inflections, known_lemmas, likeliest_lemma

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
