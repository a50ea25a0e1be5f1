"""Wraps lemminflect and loads it on first use: it imports spaCy, seconds that a plan or cached run need not spend."""


def known_lemmas(word: str, part: str) -> tuple[str, ...]:
    """Returns the lemmas in the dictionary for a word as `part` ("NOUN", "VERB"); none for an unknown word."""
    from lemminflect import getAllLemmas

    return tuple(getAllLemmas(word, upos=part).get(part, ()))


def likeliest_lemma(word: str, part: str) -> str:
    """Returns the lemma of a word as `part`, derived by rules when the word is not in the dictionary."""
    from lemminflect import getLemma

    return str(getLemma(word, part)[0])


def inflections(lemma: str, tag: str) -> tuple[str, ...]:
    """Returns the forms of a lemma for a Penn tag, e.g. "VBN"."""
    from lemminflect import getInflection

    return tuple(getInflection(lemma, tag))
