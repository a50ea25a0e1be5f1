"""Caches features of label texts: each distinct string is encoded once, not once per image.

Shapes: T object texts (the last is "no objects"), P predicate texts, E text feature width.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.config import NO_OBJECTS
from models.relation_tagger import RelationTagger

CACHE_LIMIT = 20_000
"""Number of cached strings beyond the fixed lists; when the cache is full, it is cleared."""


@dataclass(frozen=True)
class TextList:
    """The texts that one image is scored against: object names without "no objects", and predicates."""

    objects: tuple[str, ...]
    predicates: tuple[str, ...]


class LabelTexts:
    """Builds text lists that begin with the same names for every image, and computes their features.

    The fixed names are encoded together, all others one by one. So the features of a string never depend on which
    strings were requested before, and scores do not depend on the order of processing.
    """

    def __init__(self, tagger: RelationTagger, objects: Sequence[str], predicates: Sequence[str]) -> None:
        """`objects`, `predicates`: the names in every list. Must be called in the precision of the scoring."""
        self._tagger = tagger
        self._objects, self._predicates = tuple(dict.fromkeys(objects)), tuple(dict.fromkeys(predicates))
        fixed = list(dict.fromkeys([*self._objects, NO_OBJECTS, *self._predicates]))
        self._fixed: dict[str, Tensor] = dict(zip(fixed, tagger.encode_texts(fixed), strict=True))
        self._others: dict[str, Tensor] = {}

    def list_for(self, objects: Iterable[str], predicates: Iterable[str]) -> TextList:
        """Returns the list of an image with these names: the fixed ones, then its others in alphabetical order."""
        return TextList(
            self._objects + tuple(sorted(set(objects).difference(self._objects))),
            self._predicates + tuple(sorted(set(predicates).difference(self._predicates))),
        )

    def features(self, texts: TextList) -> tuple[Tensor, Tensor]:
        """Returns the features of the objects and "no objects" (T×E), and of the predicates (P×E)."""
        return self._stacked([*texts.objects, NO_OBJECTS]), self._stacked(texts.predicates)

    def _stacked(self, texts: Sequence[str]) -> Tensor:
        if not texts:
            return self._tagger.encode_texts([])
        return torch.stack([self._feature(text) for text in texts])

    def _feature(self, text: str) -> Tensor:
        found = self._fixed.get(text)
        if found is None:
            found = self._others.get(text)
        if found is None:
            if len(self._others) >= CACHE_LIMIT:
                self._others.clear()
            found = self._others[text] = self._tagger.encode_texts([text])[0]
        return found
