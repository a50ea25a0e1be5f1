"""Generates captions for the captioner's training and for written datasets.

Every caption is true of its scene. Code that makes labels must not import this module: the pipeline must read images,
not the grammar of the captions.
"""

from collections.abc import Sequence
from random import Random

from scenes.names import PEOPLE

Thing = tuple[str, str, str]
"""(category, noun, colour) of an object."""
Fact = tuple[int, str, int]
"""(subject, predicate, object); the objects by index."""

NOUNS: dict[str, tuple[str, ...]] = {
    "man": ("man",) * 8 + ("person", "person"),
    "woman": ("woman",) * 8 + ("lady", "person"),
    "boy": ("boy",) * 7 + ("child", "kid", "person"),
    "girl": ("girl",) * 8 + ("child", "person"),
    "bicycle": ("bicycle", "bicycle", "bike"),
    "motorcycle": ("motorcycle",) * 4 + ("motorbike",),
    "dog": ("dog",) * 5 + ("puppy",),
    "cat": ("cat",) * 5 + ("kitten",),
    "sheep": ("sheep",) * 5 + ("lamb",),
    "couch": ("couch", "couch", "sofa"),
    "dining table": ("table",) * 3 + ("dining table",),
    "sports ball": ("ball",),
    "tv": ("tv", "tv", "television"),
    "handbag": ("handbag", "handbag", "purse"),
    "tie": ("tie",) * 5 + ("necktie",),
    "cup": ("cup",) * 3 + ("mug",),
    "laptop": ("laptop",) * 4 + ("computer",),
}
"""Noun -> names that captions use for it, repeated by frequency. Other categories keep their own name."""

FORMS: dict[str, tuple[tuple[str, ...], str, str | None]] = {
    "riding": (("riding",), "rides", "ridden by"),
    "holding": (("holding",), "holds", "held by"),
    "carrying": (("carrying",), "carries", "carried by"),
    "wearing": (("wearing",), "wears", "worn by"),
    "sitting on": (("sitting on",) * 4 + ("seated on",), "sits on", None),
    "lying on": (("lying on",), "lies on", None),
    "next to": (("next to",) * 4 + ("beside", "standing next to"), "is next to", None),
    "behind": (("behind",) * 3 + ("standing behind",), "is behind", None),
    "under": (("under",) * 5 + ("beneath",), "is under", None),
    "on": (("on",) * 4 + ("on top of",), "is on", None),
    "looking at": (("looking at",), "looks at", None),
    "walking": (("walking",), "walks", "walked by"),
    "kicking": (("kicking",), "kicks", "kicked by"),
    "eating": (("eating",), "eats", "eaten by"),
}
"""Predicate -> (participles or prepositions, third person, passive with "by" or None)."""

CAN_STAND = frozenset({*PEOPLE, "horse", "dog", "cat", "cow", "sheep", "elephant"})
COLOUR_SHARE = 0.1


def caption(things: Sequence[Thing], facts: Sequence[Fact], rng: Random, opening: bool = True) -> str:
    """Returns a lower-case sentence that states one or two of a scene's facts.

    `opening` allows "there is ...", which must not follow a prompt such as "a picture of".
    """
    first = rng.choice(facts)
    if rng.random() < 0.68 or len(facts) == 1:
        sentence = _clause(things, first, rng)
    else:
        sentence = _two(things, first, rng.choice([f for f in facts if f != first]), facts, rng)
    if opening and rng.random() < 0.12 and sentence.startswith(("a ", "an ")) and not _finite(sentence):
        return f"there is {sentence}"
    return sentence


def _two(things: Sequence[Thing], first: Fact, second: Fact, facts: Sequence[Fact], rng: Random) -> str:
    shared = [f for f in facts if f != first and f[0] == first[0] and _forms(f[1])[2] is not None]
    if shared and rng.random() < 0.7 and _forms(first[1])[1].split()[0] != "is":
        more = rng.choice(shared)
        subject, one = _noun_phrase(things[first[0]], rng), _noun_phrase(things[first[2]], rng)
        other = _noun_phrase(things[more[2]], rng)
        return f"{subject} {rng.choice(_forms(first[1])[0])} {one} and {_forms(more[1])[0][0]} {other}"
    joint = rng.choice((" while ", " while ", " and "))
    return f"{_clause(things, first, rng)}{joint}{_clause(things, second, rng)}"


def _forms(predicate: str) -> tuple[tuple[str, ...], str, str | None]:
    """Returns the forms of a predicate. Wordings of the second world have their participle only."""
    return FORMS.get(predicate, ((predicate,), f"is {predicate}", None))


def _clause(things: Sequence[Thing], fact: Fact, rng: Random) -> str:
    subject, predicate, target = fact
    if predicate == "next to" and rng.random() < 0.5:
        subject, target = target, subject
    participles, third, passive = _forms(predicate)
    a, b = _noun_phrase(things[subject], rng), _noun_phrase(things[target], rng)
    if predicate == "riding" and rng.random() < 0.04:
        a = "a rider"
    style = rng.random()
    if passive is not None and style < 0.06:
        return f"{b} {passive} {a}"
    if style < 0.16:
        return f"{a} {third} {b}"
    words = rng.choice(participles)
    if words.startswith("standing") and things[subject][1] not in CAN_STAND:
        words = participles[0]
    return f"{a} is {words} {b}" if style < 0.24 else f"{a} {words} {b}"


def _noun_phrase(thing: Thing, rng: Random) -> str:
    _, noun, colour = thing
    words = rng.choice(NOUNS.get(noun, (noun,)))
    if noun not in PEOPLE and rng.random() < COLOUR_SHARE:
        words = f"{colour} {words}"
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _finite(sentence: str) -> bool:
    words = sentence.split()
    return any(word in words for word in ("is", *(third.split()[0] for _, third, _ in FORMS.values())))


def vocabulary(categories: Sequence[str], colours: Sequence[str]) -> list[str]:
    """Returns all words that captions can contain, sorted."""
    phrases = ["a an and is there while by rider", *categories, *colours]
    phrases += [noun for nouns in NOUNS.values() for noun in nouns]
    for participles, third, passive in FORMS.values():
        phrases += [*participles, third, passive or ""]
    return sorted({word for phrase in phrases for word in phrase.split()})
