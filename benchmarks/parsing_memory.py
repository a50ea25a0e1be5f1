"""Measures peak memory of a `parse` worker by number of captions: `python -m benchmarks.parsing_memory`.

Distinct generated captions, ten per image, go through the stage partition by partition, as in a run, with the cache of
parses. A flat curve means that any number of captions fits in memory, because a worker holds one partition.
"""

from __future__ import annotations

import tempfile
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice, product
from pathlib import Path

import pyarrow as pa

from benchmarks.harness import Row, parser, peak_mib, run
from pipeline.runtime.stage import Inputs
from pipeline.stages.parse import ParseSettings, ParseStage
from storage.tables import CAPTIONS
from tagger.english.words import phrases

DRAWS = 10
_WHO = phrases("man, woman, boy, girl, child, nurse, farmer, dog, cat, horse, cow, bird")
_LOOKS = phrases("tall, small, old, young, brown, white, wet, happy, tired, busy, quiet, large")
_DOES = phrases("sitting on, standing next to, looking at, holding, lying under, pulling, walking past, carrying")
_WHAT = phrases("bench, chair, car, kite, table, bag, box, boat, ladder, basket, cart, book, lamp, rope, cake")
_COLOURS = phrases("red, blue, green, yellow, black, orange, grey, pink")
_WHERE = phrases(
    "in a park, on a street, near a lake, in a kitchen, behind a house, on a beach, by a door, at a market"
)


@dataclass(frozen=True)
class Partition(Inputs):
    """A partition's captions, held in memory."""

    captions: pa.Table = field(default_factory=CAPTIONS.empty_table)

    def table(self, table: str) -> pa.Table:
        return self.captions


def partitions(total: int, images: int) -> Iterator[Partition]:
    """Yields `total` distinct captions in partitions of `images` images."""
    words = product(_WHERE, _COLOURS, _LOOKS, _WHAT, _DOES, _WHO)
    texts = islice(
        (f"a {look} {who} {does} a {colour} {what} {where}" for where, colour, look, what, does, who in words), total
    )
    plain = {"seed": 0, "log_probability": None, "source": "made"}
    while here := list(islice(texts, images * DRAWS)):
        of_images = [here[start : start + DRAWS] for start in range(0, len(here), DRAWS)]
        rows = [
            {
                "image_id": number,
                "captions": [{"text": text, "draw": draw, **plain} for draw, text in enumerate(captions)],
            }
            for number, captions in enumerate(of_images)
        ]
        yield Partition(captions=pa.Table.from_pylist(rows, schema=CAPTIONS))


def measure(given: Namespace) -> Iterator[Row]:
    """Yields peak memory so far, about ten times."""
    every, done, shown = max(given.captions // 10, 1), 0, 0
    with tempfile.TemporaryDirectory() as folder:
        stage = ParseStage(ParseSettings(cache=Path(folder) / "parses.sqlite"), {})
        stage.open(Inputs())
        for partition in partitions(given.captions, given.images):
            stage.run(partition, Path(folder), lambda done, total, note="": None)
            done += partition.captions.num_rows * DRAWS
            if done // every > shown or done >= given.captions:
                shown = done // every
                yield Row(f"after {done:,} captions", "MiB", peak_mib())


if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument("--captions", type=int, default=10_000, help="number of captions, at most a million")
    options.add_argument("--images", type=int, default=100, help="images per partition")
    run(options, measure)
