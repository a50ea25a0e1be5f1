"""lemminflect, loaded at first use: it brings spaCy along, seconds that a plan or a cached run need not pay."""


def known_lemmas(word: str, part: str) -> tuple[str, ...]:
    """Lemmas that the dictionary has for a word as `part` ("NOUN", "VERB"); none for a word it does not know."""
    from lemminflect import getAllLemmas

    return tuple(getAllLemmas(word, upos=part).get(part, ()))


def likeliest_lemma(word: str, part: str) -> str:
    """The lemma of a word as `part`, by rules where the dictionary does not know it."""
    from lemminflect import getLemma

    return str(getLemma(word, part)[0])


def inflections(lemma: str, tag: str) -> tuple[str, ...]:
    """Forms of a lemma for a Penn tag, e.g. "VBN"."""
    from lemminflect import getInflection

    return tuple(getInflection(lemma, tag))
