"""The parser that the authors used, as a peer: SceneGraphParser, caption by caption."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

MISSING = "the authors' parser is not installed (pip install SceneGraphParser tabulate)"
"""What a benchmark says instead of a peer's figures."""


class PeerTriplet(NamedTuple):
    """A relation as the peer gives it: surface spans, surface predicate."""

    subject: str
    predicate: str
    object: str


def is_installed() -> bool:
    """Whether the peer can be measured here."""
    return all(find_spec(name) is not None for name in ("sng_parser", "tabulate"))


def parse_as_authors(captions: Sequence[str], model: str) -> list[list[PeerTriplet]]:
    """Relations of each caption by the peer, over the spaCy model of that name."""
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
