"""Scores that other methods published, with where each was found."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_FILE = Path(__file__).with_name("published.toml")


@dataclass(frozen=True)
class Source:
    """Where a figure was found."""

    name: str
    year: int
    url: str


@dataclass(frozen=True)
class PublishedResult:
    """One row of a published table. `scores` are in percent, by the names of the benchmark's figures."""

    method: str
    backbone: str
    setting: str
    scores: Mapping[str, float]
    source: Source


def published_results(benchmark: str) -> tuple[PublishedResult, ...]:
    """Returns what is published for `hico-det`, `v-coco` or `open-images`, in the file's order; nothing for others."""
    document = tomllib.loads(_FILE.read_text(encoding="utf-8"))
    sources = {key: Source(**source) for key, source in document.pop("sources").items()}
    return tuple(
        PublishedResult(row["method"], row["backbone"], row["setting"], row["scores"], sources[row["source"]])
        for row in document.get(benchmark, [])
    )
