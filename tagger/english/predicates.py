"""Brings the predicates of all sources of labels (captions, ground truth, test sets) into one canonical form.

`canonical` needs no parser: verb lemmas come from lemminflect, the rest from the small tables below.
"""

import re
from functools import lru_cache

from tagger.english.lemmas import inflections, participle, verb_lemma
from tagger.english.words import (
    ADVERBS,
    AUXILIARIES,
    DETERMINERS,
    FUNCTION_WORDS,
    PERFECT,
    merged,
    phrases,
    tokens_of,
    words,
)

_RECIPROCALS = ("each other", "one another", "another", "other")

# Synonymous prepositions, after a verb or alone. Variants have no articles.
_PREPOSITIONS = merged(
    {
        "on": "on top of, on top, atop, atop of, on to, onto, upon",
        "in": "inside, inside of, within, in middle of, in center of, in centre of",
        "under": "beneath, underneath, below",
        "next to": "beside, besides, beside of, next, adjacent to, alongside, alongside of, side by side with, "
        "at side of, by side of, to side of",
        "near": "nearby, near to, close, close to, close by",
        "in front of": "in front, at front of",
        "behind": "in back of",
        "left of": "to left of, on left of, on left side of",
        "right of": "to right of, on right of, on right side of",
        "between": "in between",
        "among": "amongst",
        "toward": "towards",
        "out of": "out from",
    }
)

# Merged only where no verb that adds meaning comes before: "over" alone is "above", but "jump over" stays.
_BARE_PREPOSITIONS = merged({"above": "over", "near": "by", "in": "into", "with": "together with, along with"})

# After a posture verb these carry the whole relation; "on", "in" and "at" do not ("sit on" says more than "on").
_PLACES = frozenset(
    phrases(
        "next to, near, by, behind, in front of, under, above, between, among, around, left of, right of, opposite, "
        "across from, outside, outside of, with, beyond, ahead of"
    )
)
_POSTURES = words("stand sit lie park rest crouch kneel squat stop wait stay pose")
# Verbs that only locate a thing: dropped before every preposition.
_LOCATIONS = words("place locate position situate see picture show display set find be")

_SYNONYM_VERBS = merged({"lie": "lay", "sit": "seat", "hold": "grip, grasp, clutch", "dress": "clothe"})

_PARTICLES = words("up down out back straight")
# Particles only before another preposition: "look over at", but not "sit around" a table.
_EITHER = words("over around along")
_DROPS_PARTICLE = words("sit stand lie look stare gaze glance peer kneel crouch squat rest lean")

_PHRASES = merged(
    {
        "ride": "ride on, ride back of, ride on back of, ride on backs of, ride along on, sit astride",
        "hold": "hold up, hold out, hold on, hold onto",
        "carry": "carry around, carry along",
        "look at": "look toward, stare at, stare toward, gaze at, gaze toward, glance at, peer at",
        "wear": "dress in, have on",
        "talk to": "talk with, chat with",
    }
)

# A step shortens the text or maps it to a right-hand side of the tables, so this many suffice; more means a cycle.
_MAX_STEPS = 16


@lru_cache(maxsize=1 << 16)
def canonical(text: str) -> str:
    """Returns the canonical predicate of any surface form ("is sitting on top of" and "SITS ON" both give "sit on").

    Lowers the case, reduces verbs to lemmas, drops auxiliaries and articles, keeps a verb's preposition, drops postures
    that add nothing before a spatial preposition ("standing next to" gives "next to"), and merges synonyms. A passive
    keeps its participle ("held by"), because its arguments are swapped. Deterministic and idempotent; never raises.
    Text without a word gives "".
    """
    seen = [text]
    for _ in range(_MAX_STEPS):
        following = _step(seen[-1])
        if following == seen[-1]:
            return following
        if following in seen:
            return min(seen[seen.index(following) :])
        seen.append(following)
    return seen[-1]


def _step(text: str) -> str:
    # A dog "in the back of" a truck is in it; only "in back of" is behind.
    phrase = re.sub(r"\bin the back of\b", "in", " ".join(tokens_of(text)))
    tokens = [word for word in phrase.split() if word not in DETERMINERS]
    tokens, was_copula = _without_auxiliaries(tokens)
    tokens = _without_reciprocal(_without_adverbs(tokens))
    if not tokens:
        return "be" if was_copula else ""
    phrase = " ".join(tokens)
    if tokens[0] in FUNCTION_WORDS or tokens[0] == "side":
        return _bare_preposition(phrase)
    if _is_passive(tokens):
        return f"{participle(_verb_lemma(tokens[0]))} by"
    verb = _verb_lemma(tokens[0])
    rest = tokens[1:]
    if verb in _DROPS_PARTICLE and _opens_with_particle(rest):
        rest = rest[1:]
    place = " ".join(rest)
    place = _PREPOSITIONS.get(place, place)
    if place and ((place in _PLACES and verb in _POSTURES) or (verb in _LOCATIONS and rest[0] in FUNCTION_WORDS)):
        return _bare_preposition(place)
    phrase = f"{verb} {place}".strip()
    return _PHRASES.get(phrase, phrase)


def _without_auxiliaries(tokens: list[str]) -> tuple[list[str], bool]:
    start = 0
    while start < len(tokens):
        perfect = tokens[start] in PERFECT and tokens[start + 1 : start + 2] == ["been"]
        if not perfect and tokens[start] not in AUXILIARIES:
            break
        start += 1
    return tokens[start:], start > 0


def _without_adverbs(tokens: list[str]) -> list[str]:
    kept = [
        word
        for index, word in enumerate(tokens)
        # "right" is an adverb in "right next to", but not in "right of".
        if not (word in ADVERBS or (word == "right" and _opens_place(tokens[index + 1 : index + 3])))
    ]
    return kept if kept else tokens


def _opens_place(tokens: list[str]) -> bool:
    return bool(tokens) and tokens[0] in FUNCTION_WORDS and tokens[0] not in ("of", "side")


def _opens_with_particle(rest: list[str]) -> bool:
    """Whether the first word adds nothing ("up at") and the next word does not need it ("out of", "over back of")."""
    if len(rest) < 2:
        return bool(rest) and rest[0] in _PARTICLES
    is_free = rest[1] in FUNCTION_WORDS and rest[1] not in ("of", "back", "side")
    return is_free and rest[0] in _PARTICLES | _EITHER


def _without_reciprocal(tokens: list[str]) -> list[str]:
    phrase = " ".join(tokens)
    for reciprocal in _RECIPROCALS:
        if phrase.endswith(f" {reciprocal}"):
            return phrase[: -len(reciprocal) - 1].split()
    return tokens


def _bare_preposition(phrase: str) -> str:
    preposition = _PREPOSITIONS.get(phrase, phrase)
    return _BARE_PREPOSITIONS.get(preposition, preposition)


def _is_passive(tokens: list[str]) -> bool:
    if tokens[1:] != ["by"]:
        return False
    verb = _verb_lemma(tokens[0])
    return verb not in _POSTURES | _LOCATIONS and tokens[0] != verb and tokens[0] in inflections(verb, "VBN")


def _verb_lemma(word: str) -> str:
    lemma = verb_lemma(word)
    return _SYNONYM_VERBS.get(lemma, lemma)
