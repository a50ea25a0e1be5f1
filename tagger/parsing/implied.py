"""Infers what an activity is done with when the caption does not name it: a skier has skis, a surfer a surfboard."""

from collections.abc import Iterator

from spacy.tokens import Token

from tagger.english.nouns import noun_lemma
from tagger.english.verbs import verb_lemma

RULE = "implied"

Means = tuple[str, str]
"""(canonical predicate, noun)"""

_VERBS: dict[str, Means] = {
    "ski": ("ski on", "skis"),
    "snowboard": ("snowboard on", "snowboard"),
    "skateboard": ("skateboard on", "skateboard"),
    "surf": ("surf on", "surfboard"),
    "cycle": ("ride", "bicycle"),
    "bicycle": ("ride", "bicycle"),
    "bike": ("ride", "bike"),
}
_VERBS_WITH: dict[tuple[str, str], Means] = {
    ("ride", "wave"): ("ride", "surfboard"),
    ("catch", "wave"): ("ride", "surfboard"),
    ("play", "tennis"): ("hold", "tennis racket"),
}
_PEOPLE: dict[str, Means] = {
    "skier": ("ski on", "skis"),
    "snowboarder": ("snowboard on", "snowboard"),
    "skateboarder": ("skateboard on", "skateboard"),
    "skate boarder": ("skateboard on", "skateboard"),
    "snow boarder": ("snowboard on", "snowboard"),
    "surf boarder": ("surf on", "surfboard"),
    "surfer": ("surf on", "surfboard"),
    "cyclist": ("ride", "bicycle"),
    "bicyclist": ("ride", "bicycle"),
    "biker": ("ride", "bike"),
    "equestrian": ("ride", "horse"),
    "horse rider": ("ride", "horse"),
    "motorcyclist": ("ride", "motorcycle"),
    "batter": ("hold", "baseball bat"),
    "tennis player": ("hold", "tennis racket"),
}


def means_of_verb(verb: Token) -> Iterator[Means]:
    """Yields what the activity of a verb is done with."""
    lemma = verb_lemma(verb.lower_)
    if lemma in _VERBS:
        yield _VERBS[lemma]
    for child in verb.rights:
        if child.dep_ == "dobj" and (lemma, noun_lemma(child.lower_)) in _VERBS_WITH:
            yield _VERBS_WITH[lemma, noun_lemma(child.lower_)]


def means_of_person(noun: Token) -> Means | None:
    """Returns what a person named after an activity does it with."""
    head = noun_lemma(noun.lower_)
    compounds = " ".join(child.lower_ for child in noun.lefts if child.dep_ == "compound")
    return _PEOPLE.get(f"{compounds} {head}".strip()) or _PEOPLE.get(head)
