"""Published scores of other methods, each with its source, and caveats of the benchmarks."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_PUBLISHED = tomllib.loads(Path(__file__).with_name("published.toml").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Source:
    """Where a figure was found."""

    name: str
    year: int
    url: str
    suppression: bool | None = None
    """Whether its HICO-DET or Open Images scores were computed without duplicates; None: not stated"""


@dataclass(frozen=True)
class PublishedTestSet:
    """The test set that a benchmark's published results were measured on."""

    name: str
    images: int
    least_images: int
    """Public files leave out images without a usable relation; fewer than these are another set"""
    classes: int | None = None
    """Number of classes with truth; None: not compared"""
    related: bool = False
    """Whether only images with relations count, as recall of scene graphs has them"""

    def difference(self, images: int, classes: int) -> str:
        """Returns how a test set differs from this one, as a sentence; nothing if it is this one."""
        if self.least_images <= images <= self.images and self.classes in (None, classes):
            return ""
        of = f"{self.images:,} images" + ("" if self.classes is None else f" and {self.classes} classes")
        of = f"{of} with relations" if self.related else of
        words = "class" if classes == 1 else "classes"
        found = f"{images:,} images" + ("" if self.classes is None else f" and {classes} {words}")
        return f"Published results cover the whole test set of {self.name}, {of}. This one has {found}: not comparable."


@dataclass(frozen=True)
class PublishedResult:
    """One row of a published table. `scores` are in percent, by the names of the benchmark's figures."""

    method: str
    backbone: str
    setting: str
    scores: Mapping[str, float]
    source: Source


def known_caveats(benchmark: str) -> tuple[str, ...]:
    """Returns what readers of a benchmark's scores should know, as sentences."""
    return tuple(_PUBLISHED["caveats"].get(benchmark, ()))


def published_test_set(benchmark: str) -> PublishedTestSet | None:
    """Returns the test set of a benchmark of the file; None for others."""
    found = _PUBLISHED["test_sets"].get(benchmark)
    return None if found is None else PublishedTestSet(**found)


def published_results(benchmark: str, suppression: bool | None = None) -> tuple[PublishedResult, ...]:
    """Returns what is published for a benchmark, in the file's order; nothing for one that the file lacks.

    `suppression`: only results by this rule about duplicates, or of an unstated one; None: all.
    """
    sources = {key: Source(**source) for key, source in _PUBLISHED["sources"].items()}
    return tuple(
        PublishedResult(row["method"], row["backbone"], row["setting"], row["scores"], sources[row["source"]])
        for row in _PUBLISHED.get(benchmark, [])
        if suppression is None or sources[row["source"]].suppression in (suppression, None)
    )
