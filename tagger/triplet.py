"""One relation that a caption states."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Triplet:
    """Subject, predicate and object as written, their lemmas, and their positions in the caption.

    Offsets are in characters: `caption[subject_start:subject_end] == subject`, likewise for predicate and object. A
    pronoun has the words and the place of the noun that it means.
    `subject_lemma`, `object_lemma`: head noun, singular, with its compound words ("tennis racket").
    `predicate_lemma`: canonical form; for a passive it is the active verb, and subject and object are swapped.
    `rule`: name of the parser rule that found it.
    `subject_count`, `object_count`: how many are meant; 0 for several without a number ("men").
    `subject_attributes`, `object_attributes`: adjectives and other words that describe it, in order ("red", "brick").
    """

    subject: str
    subject_lemma: str
    predicate: str
    predicate_lemma: str
    object: str
    object_lemma: str
    subject_start: int
    subject_end: int
    predicate_start: int
    predicate_end: int
    object_start: int
    object_end: int
    rule: str
    subject_count: int = 1
    object_count: int = 1
    subject_attributes: tuple[str, ...] = ()
    object_attributes: tuple[str, ...] = ()


NameTriplet = tuple[str, str, str]
"""Subject, canonical predicate and object, by name."""
