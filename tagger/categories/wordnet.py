"""WordNet's hyponyms: a beagle is a dog. `benchmarks/wordnet.py` makes the table; its licence: wordnet_licence.txt."""

from __future__ import annotations

import gzip
from functools import cache, lru_cache
from pathlib import Path

TABLE = Path(__file__).parent / "wordnet.txt.gz"
_UNKNOWN = [(99, 0)]
_LIVING = ("animal", "produce")
_LIKELY = 3
"""The highest rank of a sense of an animal or a fruit that captions are likely to mean."""


@lru_cache(maxsize=1 << 14)
def kinds_above(noun: str) -> tuple[tuple[str, ...], ...]:
    """Returns the words for a noun's most frequent sense, and then for each of its hypernyms, the nearest first.

    It returns only words that mean this thing rather than another. Empty if WordNet lacks the noun, or if its most
    frequent sense is not a thing ("range"), other than for animals and fruit ("albatross"). What is only sometimes said
    of people ("planter") does not count as a person.
    """
    words, _, senses = _table()
    rank, synset = senses.get(noun, _UNKNOWN)[0]
    above = _above(synset)
    if rank != 1 and (rank > _LIKELY or not any(kind in words[number] for number in above for kind in _LIVING)):
        return ()
    return tuple(tuple(word for word in words[synset] if senses[word][0][1] == synset) for synset in above)


def may_be(noun: str, kind: str) -> bool:
    """Whether any sense of a noun is of a kind, e.g. an "animal"."""
    words, _, senses = _table()
    return any(kind in words[synset] for _, sense in senses.get(noun, ()) for synset in _above(sense))


def _above(synset: int) -> list[int]:
    reached = [synset]
    for below in reached:
        reached += [parent for parent in _table()[1][below] if parent not in reached]
    return reached


@cache
def _table() -> tuple[list[list[str]], list[list[int]], dict[str, list[tuple[int, int]]]]:
    """The words and the parents of each synset, and the ranks and synsets of each word, the most frequent first."""
    words: list[list[str]] = []
    parents: list[list[int]] = []
    senses: dict[str, list[tuple[int, int]]] = {}
    for number, line in enumerate(gzip.decompress(TABLE.read_bytes()).decode().splitlines()):
        named, _, above = line.partition("\t")
        parents.append([int(parent) for parent in above.split()])
        words.append([])
        for entry in filter(None, named.split(",")):
            word, _, rank = entry.partition("#")
            words[-1].append(word)
            senses.setdefault(word, []).append((int(rank), number))
    return words, parents, {word: sorted(found) for word, found in senses.items()}
