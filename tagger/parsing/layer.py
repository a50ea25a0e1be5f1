"""A learned layer over the rules: two linear models choose the words of each noun, and what relates two nouns.

Each choice has a few options, whose features are hashed into one table of weights. `benchmarks/parsing_layer.py` trains
them on FACTUAL's captions; layer_card.md names the licence.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache, lru_cache
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple, TypeVar
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from tagger.categories.names import COCO, OBJECTS365
from tagger.english.lemmas import known_lemmas, noun_lemma, phrase_lemma
from tagger.parsing import LAYER
from tagger.parsing.implied import READINGS
from tagger.parsing.tree import PART_NOUNS, Mentions
from tagger.parsing.wordings import full_form, full_predicate
from tagger.triplet import Triplet

if TYPE_CHECKING:
    from spacy.tokens import Doc, Token

BITS = 19
COMPOUND = "~"
"""Stands for the words between the nouns of a compound, which has none."""

_NOUNS = ("NOUN", "PROPN")
_LINKS = frozenset(("VERB", "AUX", "ADP", "PART", "SCONJ", "ADV"))
_ALSO_LINKS = frozenset(("next", "full", "close", "adjacent"))
_DESCRIBING = frozenset((*_NOUNS, "ADJ", "VERB"))
_OWN_CLAUSE = frozenset(("nsubj", "nsubjpass", "parataxis"))
_INNER = frozenset(("compound", "nmod", "poss"))
_JOINTS = frozenset(("and", "while", "as"))
"""Words between a noun and another clause, where the rules have found the subject of a later noun."""
_LIKE = {"guy": "man", "dude": "man"}
"""A noun → the one that it is read as. FACTUAL's graphs say "person", as if a guy had no relations."""
_LEAST = -0.5
"""The score above which an option is kept, where 0 is as likely as none. It balances precision and recall."""
_NEAREST = 3
"""Nouns before a noun that may be its subject where the rules relate it to none of them."""
_LONGEST = 3
"""Words of a noun."""
_MIX, _SALT, _SPREAD = np.array([0x9E3779B1, 0x7FEB352D, 0x85EBCA6B], np.uint32)
"""Odd numbers that spread hashes."""

T = TypeVar("T")
Features = NDArray[np.uint32]
"""Places in the table of weights: options x templates."""
Rewordings = Mapping[str, Sequence[tuple[str, bool]]]
"""For the words between two nouns, predicates, and whether these swap the nouns."""
Found = Mapping[tuple[int, int, str], Triplet]
"""The rules' triplets by the positions of subject and object and the canonical predicate."""
Template = tuple[NDArray[np.intp], NDArray[np.intp]]


def _templates(*lines: tuple[int, str]) -> Template:
    """Returns the pairs of an option's and a choice's values that make features."""
    joined = [(which, int(what)) for which, listed in lines for what in listed.split()]
    which, what = zip(*joined, strict=True)
    return np.array(which), np.array(what)


_FORM_TEMPLATES = _templates((0, "0"), (1, "1 2 3 5"), (2, "4 6"))
_RELATION_TEMPLATES = _templates((0, "1 2 3 4 5 6"), (1, "0 4 5 6 7 8 9 10 11 12"), (2, "0"))


class Option(NamedTuple):
    """What may relate two nouns: positions of subject and object, predicate in full form, and its range of tokens.

    `triplet`: the rules' own. `reworded`: the predicate is not what the words say.
    """

    subject: int
    object: int
    predicate: str
    start: int
    end: int
    triplet: Triplet | None = None
    reworded: bool = False


class Words(NamedTuple):
    """Words that link a noun to those before it, in full form, their range, and whether a joined noun shares them."""

    text: str
    start: int
    end: int
    joined: bool


class NounPair(NamedTuple):
    """Two nouns that may be related.

    `gap`: nouns between them. `before`: the words before the left one. `ruled`: subject, object and triplet of each
    relation that the rules find. `ends`: how many of these have the right one as object.
    """

    left: Token
    right: Token
    gap: int
    words: Words
    before: str
    ruled: Sequence[tuple[int, int, Triplet]]
    ends: int


class Layer:
    """The trained weights, and what training found the words between two nouns to mean."""

    def __init__(self, weights: NDArray[np.float32], rewordings: Rewordings) -> None:
        """`weights`: one for each of `2**BITS` hashes."""
        self._weights, self._rewordings = weights, rewordings

    def forms(self, doc: Doc, mentions: Mentions) -> dict[int, str]:
        """Returns the words of each noun that has words before it, as a lemma, by the position of its head."""
        heads, options, features = form_choices(doc, mentions)
        return {head: form for head, (form, _) in zip(heads, self._best(options, features), strict=True)}

    def relations(self, doc: Doc, mentions: Mentions, nouns: Sequence[Token], found: Found) -> Iterator[Option]:
        """Yields the likeliest option of each pair of nouns, if it is likely enough."""
        reciprocal = {key: triplet for key, triplet in found.items() if triplet.rule == "reciprocal"}
        yield from (Option(*key, 0, 0, triplet) for key, triplet in reciprocal.items())
        others = {key: triplet for key, triplet in found.items() if key not in reciprocal}
        _, options, features = relation_choices(pairs(doc, mentions, nouns, others), self._rewordings)
        yield from (option for option, score in self._best(options, features) if score > _LEAST)

    def _best(self, options: Sequence[Sequence[T]], features: Features) -> Iterator[tuple[T, float]]:
        """Yields the option with the highest score of each choice, with this score."""
        scores = self._weights[features].sum(1).tolist()
        start = 0
        for of_choice in options:
            best = max(range(len(of_choice)), key=lambda at: scores[start + at])
            yield of_choice[best], scores[start + best]
            start += len(of_choice)


@cache
def load_layer() -> Layer:
    """Loads the weights that the project ships."""
    with np.load(LAYER) as file:
        return Layer(file["weights"].astype(np.float32), json.loads(file["rewordings"].tobytes()))


@cache
def _names() -> frozenset[str]:
    """Names of things in several words, which stay whole: a "hot dog" is not a dog."""
    known = (*COCO, *chain.from_iterable(COCO.values()), *OBJECTS365)
    return frozenset(phrase_lemma(name) for name in known if " " in name)


# Python's own hash of a text differs from process to process.
_hash = lru_cache(maxsize=1 << 16)(lambda text: crc32(text.encode()))


def _features(ids: list[tuple[int, ...]], owners: list[int], values: list[list[int]], templates: Template) -> Features:
    """Joins what an option is with what is known of its choice, and hashes both: one row for each option.

    `ids`: hashes of what each option is; `owners`: its choice; `values`: hashes of what is known of each choice.
    `templates`: which of the former is joined with which of the latter.
    """
    if not ids:
        return np.zeros((0, len(templates[0])), np.uint32)
    which, what = templates
    # Products are meant to overflow, as hashes do.
    joined = np.array(ids, np.uint32)[:, which] * _MIX ^ np.array(values, np.uint32)[owners][:, what]
    hashes: Features = (joined + np.arange(len(which), dtype=np.uint32) * _SALT) * _SPREAD
    return hashes >> np.uint32(32 - BITS)


def form_choices(doc: Doc, mentions: Mentions) -> tuple[list[int], list[list[str]], Features]:
    """Returns the positions of nouns that follow a word, the possible lemmas of each, and these lemmas' features."""
    heads, choices, ids, owners, values = list[int](), list[list[str]](), list[tuple[int, ...]](), list[int](), []
    for noun in doc:
        if noun.pos_ not in _NOUNS or noun.i == 0:
            continue
        starts = [noun.i]
        while len(starts) < _LONGEST and starts[-1] > 0:
            start = starts[-1] - 1
            if doc[start].lower_ == "-" and start > 0:
                start -= 1
            elif doc[start].pos_ not in _DESCRIBING:
                break
            starts.append(start)
        # What "glasses" and "one" mean depends on more than the words before them.
        if len(starts) == 1 or noun.lower_ in ("glasses", "one", "ones") or (ruled := mentions.lemma(noun)) in _names():
            continue
        options = [phrase_lemma(doc[start : noun.i + 1].text) or noun.lower_ for start in starts]
        if known_lemmas(joined := options[1].replace(" ", "").replace("-", ""), "NOUN"):
            options.append(joined)
        before = doc[noun.i - 1]
        after = doc[noun.i + 1].lower_ if noun.i + 1 < len(doc) else ""
        known = ("", options[0], before.lower_, before.pos_ + before.dep_, str(len(options)), after, before.tag_)
        owners += [len(heads)] * len(options)
        heads.append(noun.i)
        choices.append(options)
        values.append(list(map(_hash, known)))
        for length, option in enumerate(options):
            kind = f"{length}{' ' in option}"
            ids.append((_hash(option), _hash(kind), _hash(f"{kind}{option == ruled}")))
    return heads, choices, _features(ids, owners, values, _FORM_TEMPLATES)


def relation_choices(
    related: Iterable[NounPair], rewordings: Rewordings
) -> tuple[list[NounPair], list[list[Option]], Features]:
    """Returns the pairs that have options, these, and their features."""
    kept, choices, ids = list[NounPair](), list[list[Option]](), list[tuple[int, ...]]()
    owners, values = list[int](), list[list[int]]()
    for pair in related:
        options = _options(pair, rewordings)
        if not options:
            continue
        wanted = full_predicate(pair.ruled[0][2]) if pair.ruled else "-"
        context = f"{min(pair.gap, 4)}{pair.words.joined}"
        owners += [len(kept)] * len(options)
        kept.append(pair)
        choices.append(options)
        values.append(list(map(_hash, _known(pair, context, wanted))))
        for option in options:
            direction = "><"[option.subject != pair.left.i]
            kind = f"{direction}{'rule' if option.triplet else option.reworded}{option.predicate == wanted}{context}"
            predicate = f"{direction}{option.predicate}"
            ids.append((_hash(predicate), _hash(kind), _hash(f"{predicate}|{kind}")))
    return kept, choices, _features(ids, owners, values, _RELATION_TEMPLATES)


def _known(pair: NounPair, context: str, wanted: str) -> tuple[str, ...]:
    left, right, words = pair.left, pair.right, pair.words.text
    first, second = (_LIKE.get(lemma, lemma) for lemma in (noun_lemma(left.lower_), noun_lemma(right.lower_)))
    rule = pair.ruled[0][2].rule + "><"[pair.ruled[0][0] != left.i] if pair.ruled else "-"
    return (
        "", context, first, second, f"{first}|{second}", f"{rule}{min(pair.ends, 2)}", f"{words}|{pair.before}",
        left.dep_ + right.dep_, f"{first}|{words}", f"{second}|{words}", f"{words}|{rule}{wanted}",
        f"{left.tag_}{right.tag_}{words}", _path(left, right),
    )  # fmt: skip


def pairs(doc: Doc, mentions: Mentions, nouns: Sequence[Token], found: Found) -> Iterator[NounPair]:
    """Yields the pairs of nouns that may be related: pairs that the rules relate, and each noun's nearest."""
    ruled: dict[tuple[int, int], list[tuple[int, int, Triplet]]] = defaultdict(list)
    ends: dict[int, int] = defaultdict(int)
    for (subject, object_, _), triplet in found.items():
        ruled[min(subject, object_), max(subject, object_)].append((subject, object_, triplet))
        ends[object_] += 1
    said: list[Words] = []
    for at, right in enumerate(nouns):
        said.append(_words_before(doc, mentions, right, said))
        first = mentions.span(right)[0]
        for gap in range(at):
            left = nouns[at - 1 - gap]
            theirs = ruled.get((left.i, right.i), [])
            is_within = left.i >= first
            is_apart = ends[right.i] and any(word.lower_ in _JOINTS for word in doc[left.i : first])
            is_near = gap < _NEAREST and not is_apart and not _is_inner(left) and not _is_inner(right)
            if theirs or is_within or is_near:
                words = _words_within(doc, left, right) if is_within else said[at]
                yield NounPair(left, right, gap, words, said[at - 1 - gap].text, theirs, ends[right.i])


def _options(pair: NounPair, rewordings: Rewordings) -> list[Option]:
    """Returns the pair's options: from the rules, from the words, and from what training found the words to mean.

    A predicate that the rules read into the words ("a man in a suit": wear) stays, because labels need it.
    """
    left, right, (words, start, end, _) = pair.left.i, pair.right.i, pair.words
    options = [Option(s, o, full_predicate(triplet), 0, 0, triplet) for s, o, triplet in pair.ruled]
    if any(triplet.rule in READINGS for _, _, triplet in pair.ruled):
        return options
    if words and words not in (COMPOUND, "'s"):
        doc = pair.left.doc
        options.append(Option(left, right, words, start, end))
        if doc[start].pos_ == "VERB" and end - start > 1:
            options.append(Option(left, right, full_form(doc[start].lower_), start, start + 1))
            options.append(Option(left, right, full_form(doc[start + 1 : end].text), start + 1, end))
    reworded = rewordings.get(words, ())
    if pair.words.end - start > 1:
        reworded = [*reworded, *rewordings.get(pair.left.doc[pair.words.end - 1].lower_, ())]
    for predicate, swapped in reworded:
        ends = (right, left) if swapped else (left, right)
        options.append(Option(*ends, predicate, start, end, None, True))
    seen: dict[tuple[int, str], Option] = {}
    for option in options:
        seen.setdefault((option.subject, option.predicate), option)
    return list(seen.values())


def _words_before(doc: Doc, mentions: Mentions, noun: Token, said: Sequence[Words]) -> Words:
    """Returns the words that link a noun to those before it, their range, and whether they are a joined noun's."""
    start = end = mentions.span(noun)[0]
    while start > 0 and _is_link(doc, start, end):
        start -= 1
    if any(map(mentions.is_doubted, doc[start:end])):
        return Words("", noun.i, noun.i + 1, False)
    while start < end and doc[start].pos_ in ("AUX", "ADV") and doc[start].lower_ not in _ALSO_LINKS:
        start += 1
    if start < end:
        return Words(full_form(doc[start:end].text), start, end, False)
    is_subject = noun.dep_ in _OWN_CLAUSE
    if said and end > 0 and not is_subject and (doc[end - 1].dep_ == "cc" or doc[end - 1].lower_ == ","):
        return said[-1]._replace(joined=True)
    return Words("", noun.i, noun.i + 1, False)


def _words_within(doc: Doc, left: Token, right: Token) -> Words:
    """Returns the participle between two nouns that are read as one, if there is one: "a fence surrounding areas"."""
    start = left.i + 1
    if start < right.i and (doc[start].tag_ in ("VBG", "VBN") or doc[start].lower_.endswith("ing")):
        return Words(full_form(doc[start].lower_), start, start + 1, False)
    return Words("'s" if left.dep_ == "poss" else COMPOUND, right.i, right.i + 1, False)


def _is_inner(noun: Token) -> bool:
    return noun.dep_ in _INNER and noun.head.i > noun.i


def _is_link(doc: Doc, start: int, end: int) -> bool:
    word = doc[start - 1]
    if word.pos_ in _LINKS or word.lower_ in _ALSO_LINKS:
        return True
    if start == end:
        return False
    return word.lower_ in PART_NOUNS or (word.pos_ == "DET" and doc[start].lower_ in PART_NOUNS)


def _path(left: Token, right: Token) -> str:
    """Returns the labels from the right noun up to the left one, or to the root."""
    labels = []
    for _ in range(4):
        labels.append(right.dep_)
        if right.head in (left, right):
            break
        right = right.head
    return ",".join(labels) + ("!" if right.head == left else "")
