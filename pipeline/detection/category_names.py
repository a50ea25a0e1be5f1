"""Maps the names of a detector to those of a recipe."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.evaluation.detections.names import without_case
from storage.errors import FatalError
from tagger.categories.hypernyms import HYPERNYMS
from tagger.english.nouns import phrase_lemma
from tagger.matching.matcher import match

_SHOWN = 20
"""Number of names of each side that an error lists."""


def map_names(names: Sequence[str], categories: Sequence[str]) -> list[str | None]:
    """Returns the category of each name; None for a name that fits none, or several equally well.

    A name fits the category of the same words; else the one that it is a spelling, a synonym ("sofa", "couch") or a kind
    ("fire truck", "truck") of. A broader name ("vehicle") never fits a narrower category ("car").

    Raises `FatalError` that lists both when no name fits a category.
    """
    found = [_category(name, categories) for name in names]
    if not any(found):
        raise FatalError(
            f"detect.categories: none of the detector's {len(names)} names fits any of the {len(categories)} categories. The "
            f"detector has: {_listed(names)}. The recipe asks for: {_listed(categories)}. Choose another detector or other "
            "categories, or leave the categories out to get the detector's names"
        )
    return found


def _category(name: str, categories: Sequence[str]) -> str | None:
    plain = without_case(name)
    for category in categories:
        if without_case(category) == plain:
            return category
    lemma = phrase_lemma(plain)
    kinds = {
        phrase_lemma(kind) for broader, kinds in HYPERNYMS.items() if phrase_lemma(broader) == lemma for kind in kinds
    }
    meant = [category for category in match(plain, categories) if phrase_lemma(category) not in kinds]
    return meant[0] if len(meant) == 1 else None


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
