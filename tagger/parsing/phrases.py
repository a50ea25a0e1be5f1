"""Finds the prepositional phrases of a dependency tree: "in front of a car" is one preposition and the car."""

from collections.abc import Iterator
from dataclasses import dataclass

from spacy.tokens import Doc, Token

from tagger.english.words import words

PART_NOUNS = words(
    "front top back side middle center centre edge end bottom left right corner rear inside outside base foot"
)
"""Nouns that are part of a preposition: "in front of", "on the back of"."""

NO_LINK = words("as during than like about until since per via while whereas although though because if when")
"""Prepositions that state no visible relation."""

_RECIPROCALS = (("each", "other"), ("one", "another"))


@dataclass(frozen=True)
class Phrase:
    """Token range of a preposition (end exclusive) and the token it governs; None for "next to each other"."""

    start: int
    end: int
    object: Token | None

    @property
    def reciprocal(self) -> bool:
        """Whether the phrase relates its subjects to each other."""
        return self.object is None


class Phrases:
    """The prepositional phrases of one parsed caption."""

    def __init__(self, doc: Doc) -> None:
        self._doc = doc

    def behind(self, head: Token) -> Iterator[Phrase]:
        """Yields the phrases attached to a noun or verb, to its right."""
        for child in head.rights:
            if child.dep_ in ("prep", "agent"):
                yield from self._followed(child, child.i)
            elif child.dep_ in ("advmod", "acomp", "amod", "prt", "oprd", "acl") and child.pos_ in (
                "ADV",
                "ADJ",
                "ADP",
                "SCONJ",
            ):
                for preposition in child.rights:
                    if preposition.dep_ == "prep" and preposition.i == child.i + 1:
                        yield from self._followed(preposition, child.i)

    def is_part_noun(self, token: Token) -> bool:
        """Whether the noun belongs to a preposition, like "front" in "in front of"."""
        return token.dep_ == "pobj" and token.lower_ in PART_NOUNS and self._of_after(token) is not None

    def _followed(self, preposition: Token, start: int) -> Iterator[Phrase]:
        if preposition.lower_ in NO_LINK:
            return
        for child in preposition.rights:
            if child.dep_ == "prep" and child.i == preposition.i + 1:
                yield from self._followed(child, start)
            elif child.i > 0 and (self._doc[child.i - 1].lower_, child.lower_) in _RECIPROCALS:
                yield Phrase(start, preposition.i + 1, None)
            elif child.dep_ == "pobj":
                part = self._of_after(child) if child.lower_ in PART_NOUNS else None
                if part is not None:
                    yield from self._followed(part, start)
                else:
                    yield Phrase(start, preposition.i + 1, child)

    def _of_after(self, part: Token) -> Token | None:
        for child in part.rights:
            if child.dep_ == "prep" and child.lower_ == "of" and child.i == part.i + 1:
                return child
        return None
