"""Separates clauses joined by "and" or "while": in "a dog under a car and a cat sleeps on it" the car is not a subject.

The small spaCy model tends to read the second clause's subject as another object of the first clause.
"""

from spacy.tokens import Doc, Token

from tagger.categories.coco import ANIMATE
from tagger.english.nouns import noun_lemma
from tagger.english.words import words

_JOINTS = words("and while but")
_PREMODIFIER_TAGS = words("DET ADJ NOUN PROPN NUM")
# After these, joined nouns stay together: "with a cup and a book on it", "of a man and a woman sitting".
_BINDING = words("with of between and or to from for as")
_PLACES = words("on in at near next under behind beside above below beneath underneath over inside atop by against")
_POSTURES = words("seated parked perched dressed")


def separate_clauses(doc: Doc) -> None:
    """Changes the tree so that a noun after a conjunction that opens its own clause becomes that clause's subject."""
    for token in doc[1:-1]:
        if token.pos_ not in ("NOUN", "PROPN") or doc[token.i + 1].pos_ in ("NOUN", "PROPN"):
            continue
        joint = _phrase_start(token) - 1
        if joint < 2 or doc[joint].lower_ not in _JOINTS:
            continue
        relation = _last_relation(doc, joint, including_binding=doc[joint].lower_ != "and")
        if relation is not None:
            _separate(token, doc[token.i + 1], relation)


def _phrase_start(noun: Token) -> int:
    start = noun.i
    while start > 0 and noun.doc[start - 1].pos_ in _PREMODIFIER_TAGS:
        start -= 1
    return start


def _last_relation(doc: Doc, end: int, including_binding: bool) -> Token | None:
    """Returns the last verb or preposition before `end`, unless it binds together what follows it."""
    for position in range(end - 1, 0, -1):
        token = doc[position]
        if token.pos_ in ("VERB", "ADP", "SCONJ") or token.lower_ in ("next", "to"):
            if token.lower_ == "of" and position > 1 and doc[position - 1].lower_ in ("top", "front", "back", "side"):
                return doc[position - 2] if position > 2 else token
            if token.lower_ == "to" and doc[position - 1].lower_ == "next":
                return doc[position - 1]
            return token if including_binding or token.lower_ not in _BINDING else None
        if token.pos_ == "AUX":
            return token
    return None


def _separate(noun: Token, following: Token, relation: Token) -> None:
    if _is_finite(following, noun):
        verb = following.head if following.dep_ in ("aux", "auxpass") else following
        _attach(noun, verb, "nsubj")
    elif _is_participle(following, noun):
        _detach(noun, following, "acl")
    elif following.lower_ in _PLACES and relation.pos_ not in ("VERB", "AUX"):
        _detach(noun, following, "advmod" if following.lower_ == "next" else "prep")


def _is_finite(verb: Token, noun: Token) -> bool:
    if verb.tag_ == "VBD" and verb.i + 1 < len(verb.doc) and verb.nbor().lower_ == "by":
        return False
    is_plural = verb.lower_ in ("are", "were") or verb.tag_ == "VBP"
    return verb.tag_ in ("VBZ", "VBP", "VBD", "MD") and not (is_plural and noun.tag_ in ("NN", "NNP"))


def _is_participle(verb: Token, noun: Token) -> bool:
    if verb.tag_ in ("VBN", "VBD") and verb.i + 1 < len(verb.doc) and verb.nbor().lower_ == "by":
        return True
    return noun_lemma(noun.lower_) in ANIMATE and (verb.tag_ == "VBG" or verb.lower_ in _POSTURES)


def _attach(noun: Token, verb: Token, label: str) -> None:
    if noun.is_ancestor(verb):
        return
    if not verb.is_ancestor(noun) or noun.head != verb:
        noun.head = verb
    noun.dep_ = label


def _detach(noun: Token, modifier: Token, label: str) -> None:
    """Detaches the noun from the preceding clause and attaches the modifier to it."""
    if modifier.is_ancestor(noun):
        return
    if modifier.head != noun:
        modifier.head = noun
    modifier.dep_ = label
    if noun.dep_ == "conj":
        noun.dep_ = "parataxis"
