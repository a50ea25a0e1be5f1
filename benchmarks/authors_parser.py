"""Runs the authors' parser, SceneGraphParser, caption by caption for comparison."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

MISSING = "the authors' parser is not installed (pip install SceneGraphParser tabulate)"
"""Message of benchmarks when the authors' parser cannot run."""


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
    peer = _peer(model)
    return [_relations(peer.parse(caption)) for caption in captions]


@cache
def _peer(model: str) -> Any:
    return import_module("sng_parser").Parser("spacy", model=model)


def _relations(graph: dict[str, list[dict[str, str | int]]]) -> list[PeerTriplet]:
    spans = [str(entity["span"]).lower() for entity in graph["entities"]]
    return [
        PeerTriplet(spans[int(r["subject"])], str(r["relation"]), spans[int(r["object"])]) for r in graph["relations"]
    ]
