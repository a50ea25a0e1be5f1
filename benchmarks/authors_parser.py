"""The authors' parser, SceneGraphParser, caption by caption for comparison, and our parser reduced to what theirs keeps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

from tagger.parsing.wordings import authors_predicate
from tagger.triplet import Triplet

MISSING = "the authors' parser is not installed (pip install SceneGraphParser tabulate)"


class PeerTriplet(NamedTuple):
    """A relation of the authors' parser: spans and predicate as in the caption's text."""

    subject: str
    predicate: str
    object: str


def is_installed() -> bool:
    """Returns whether the authors' parser is installed."""
    return all(find_spec(name) is not None for name in ("sng_parser", "tabulate"))


def parse_as_authors(captions: Sequence[str], model: str) -> list[list[PeerTriplet]]:
    """Returns the relations of each caption by the authors' parser, with the spaCy model `model`."""
    return [_relations(_peer(model).parse(caption)) for caption in captions]


@cache
def _peer(model: str) -> Any:
    return import_module("sng_parser").Parser("spacy", model=model)


def _relations(graph: dict[str, list[dict[str, Any]]]) -> list[PeerTriplet]:
    spans = [entity["span"].lower() for entity in graph["entities"]]
    return [PeerTriplet(spans[r["subject"]], r["relation"], spans[r["object"]]) for r in graph["relations"]]


def to_authors_triplets(triplets: Iterable[Triplet]) -> list[Triplet]:
    """Returns the triplets of their rules, worded by `authors_predicate`; offsets still cover the whole predicate."""
    kept = ((triplet, authors_predicate(triplet)) for triplet in triplets)
    return [replace(triplet, predicate_lemma=predicate) for triplet, predicate in kept if predicate]
