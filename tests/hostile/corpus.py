"""All cases, kept as the code that makes them."""

from __future__ import annotations

from collections.abc import Collection

from tests.hostile import annotations, captions, checkpoints, images, mistakes, queries, recipes, stores, tars, urls
from tests.hostile.case import Case

KINDS = (images, annotations, tars, checkpoints, stores, queries, recipes, captions, urls, mistakes)


def corpus(kinds: Collection[str] = ()) -> list[Case]:
    """The cases, of all kinds or of some."""
    return [case for module in KINDS for case in module.cases() if not kinds or case.kind in kinds]
