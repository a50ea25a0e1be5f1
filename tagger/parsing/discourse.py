"""Reads captions of several sentences: what their pronouns and definite nouns refer to."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise, product
from typing import TYPE_CHECKING, Any, Literal

from tagger.categories.names import ANIMATE, PEOPLE
from tagger.english.words import BODY_PARTS, GARMENTS, NUMBERS, SEVERAL, words

if TYPE_CHECKING:
    from spacy.tokens import Token

    from tagger.parsing.extraction import Extraction
    from tagger.parsing.tree import Mention
    from tagger.triplet import Triplet

# The end of a sentence, but not of an abbreviation.
_END = re.compile(r"""(?<!\b[a-z])(?<!\b(?:mr|ms|dr|st))(?<!\bmrs)[.!?;]["')\]]*\s+(?=\S)""", re.IGNORECASE)
_DEFINITE = ("the ", "this ", "that ", "these ", "those ")
_KINDS = {
    "male": words(
        "man boy gentleman guy dude fellow male father dad son brother husband groom king grandfather grandson uncle "
        "nephew cowboy businessman policeman fireman fisherman mailman postman waiter priest monk"
    ),
    "female": words(
        "woman girl lady female mother mom daughter sister wife bride queen princess grandmother granddaughter aunt "
        "niece cowgirl businesswoman policewoman bridesmaid waitress nun"
    ),
    "person": PEOPLE,
    "animal": ANIMATE,
}
# What a pronoun may refer to: kinds in order of preference, those of one group alike.
_MEANINGS = {
    **dict.fromkeys(("he", "him", "his"), (("male",), ("person",), ("animal",))),
    **dict.fromkeys(("she", "her"), (("female",), ("person",), ("animal",))),
    **dict.fromkeys(("it", "its"), (("animal", "thing"),)),
    **dict.fromkeys(("they", "them", "their"), (("plural", "joined"), ("person",))),
}
# Words for some of several things, and how many these are.
_PARTS = {**dict.fromkeys((*SEVERAL, "others", "most"), 0), **NUMBERS, "other": 1}

Referent = Sequence["Mention"]
"""One noun, or nouns that are joined: "a man and a woman"."""


def sentences(caption: str) -> list[tuple[int, int]]:
    """Returns the character range of each sentence. Together they are the caption."""
    return list(pairwise([0, *(match.end() for match in _END.finditer(caption)), len(caption)]))


class Discourse:
    """What the sentences of one caption have mentioned so far."""

    def __init__(self) -> None:
        self._said: list[list[Referent]] = []
        self._meant: dict[tuple[int, int], Referent] = {}
        """Character range of a pronoun or definite noun → the earlier mention that it refers to."""

    def triplets(self, extractions: Iterable[Extraction], implied: bool) -> Iterator[Triplet]:
        """Yields what the sentences state, once each, with the first mention of each thing as subject or object.

        The first sentence is read like a separate caption.
        """
        stated = set()
        for extraction in extractions:
            self._enter(extraction)
            for triplet in extraction.triplets(implied):
                for t in self._resolved(triplet):
                    key = t.subject_start, t.subject_lemma, t.predicate_lemma, t.object_start, t.object_lemma
                    if key not in stated:
                        stated.add(key)
                        yield t

    def _enter(self, extraction: Extraction) -> None:
        """Notes what a sentence mentions, and replaces its pronouns by nouns."""
        here: list[tuple[Token, Referent]] = []
        nouns = {noun.i for noun in extraction.nouns()}
        for token in extraction.doc:
            referent = self._antecedent(token, here, extraction) if self._said else None
            if referent is not None:
                here.append((token, self._name(token, referent, extraction)))
            elif token.i in nouns:
                joined = [self._known(extraction.mention(noun)) for noun in extraction.mentions.coordinated(token)]
                here += [(token, joined), (token, joined[:1])]
        self._said.append([referent for _, referent in here])

    def _antecedent(
        self, pronoun: Token, here: Sequence[tuple[Token, Referent]], extraction: Extraction
    ) -> Referent | None:
        """Returns what a pronoun refers to: of the nearest sentence the first that fits, since subjects come first."""
        word = pronoun.lower_
        meanings = (("plural",),) if word in _PARTS and pronoun.dep_ == "nsubj" else _MEANINGS.get(word, ())
        is_counted = pronoun.head.lower_ == "of" and pronoun.head.head.lower_ in _PARTS  # "two of them"
        if not meanings or is_counted or not extraction.is_open(pronoun):
            return None
        others = extraction.apart_from(pronoun)
        excluded = {mention for token, referent in here if token in others for mention in referent}
        nearest = [[referent for _, referent in here], *reversed(self._said)]
        fitting = (
            referent
            for kinds in meanings
            for said in nearest
            for referent in said
            if _kind(referent) in kinds and excluded.isdisjoint(referent)
        )
        return next(fitting, None)

    def _name(self, pronoun: Token, referent: Referent, extraction: Extraction) -> Referent:
        """Replaces a pronoun by a noun. Returns what it refers to: for a part of several things, the part."""
        if pronoun.lower_ in _PARTS:
            extraction.mentions.name(pronoun, replace(referent[0], count=_PARTS[pronoun.lower_]))
            return [extraction.mention(pronoun)]
        extraction.mentions.name(pronoun, referent[0])
        mention = extraction.mention(pronoun)
        self._meant[mention.start, mention.end] = referent
        return referent

    def _known(self, mention: Mention) -> Mention:
        """Returns the earlier mention that a definite noun repeats, or the noun itself."""
        if not mention.text.lower().startswith(_DEFINITE):
            return mention
        for earlier in (referent[0] for said in reversed(self._said) for referent in said):
            is_same = f" {earlier.lemma}".endswith(f" {mention.lemma}")
            is_alike = (earlier.count == 1) == (mention.count == 1) and {*mention.attributes} <= {*earlier.attributes}
            if is_same and is_alike:
                self._meant[mention.start, mention.end] = [earlier]
                return earlier
        return mention

    def _resolved(self, triplet: Triplet) -> Iterator[Triplet]:
        """Yields a triplet with what its ends refer to: one for each pair of joined nouns."""
        subjects, objects = self._ends(triplet, "subject"), self._ends(triplet, "object")
        is_of_itself = triplet.subject_start == triplet.object_start and len(subjects) == 1
        for subject, object_ in product(subjects, objects):
            t = replace(triplet, **subject, **object_)
            if t.subject_start != t.object_start or is_of_itself:
                yield t

    def _ends(self, triplet: Triplet, role: Literal["subject", "object"]) -> list[dict[str, Any]]:
        """Returns the fields to replace for each noun that one end of the triplet refers to."""
        start, end, lemma = (getattr(triplet, f"{role}_{name}") for name in ("start", "end", "lemma"))
        referent = self._meant.get((start, end), ())
        # An implied relation may be about another noun at this place.
        lemmas = [mention.lemma if lemma == referent[0].lemma else lemma for mention in referent]
        ends = zip(referent, lemmas, strict=True)
        return [replace(mention, lemma=lemma).as_end(role) for mention, lemma in ends] or [{}]


def _kind(referent: Referent) -> str:
    if len(referent) > 1:
        return "joined"
    head = referent[0].lemma.rpartition(" ")[2]
    if referent[0].count != 1:
        # People wear "pants" and elephants have "tusks", but what is said next of "them" is seldom about these.
        return "part" if head in GARMENTS | BODY_PARTS else "plural"
    return next((kind for kind, nouns in _KINDS.items() if head in nouns), "thing")
