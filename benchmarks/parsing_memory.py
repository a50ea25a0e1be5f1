"""Measures peak memory of a `parse` worker by number of captions: `python -m benchmarks.parsing_memory`.

Distinct generated captions, ten per image, go through the stage partition by partition, as in a run, with the cache of
parses. A flat curve means that any number of captions fits in memory, because a worker holds one partition.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice, product
from pathlib import Path
from typing import Any

import pyarrow as pa

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
MOST = len(_WHO) * len(_LOOKS) * len(_DOES) * len(_COLOURS) * len(_WHAT) * len(_WHERE)


@dataclass(frozen=True)
class Partition(Inputs):
    """A partition's captions, held in memory."""

    captions: pa.Table = field(default_factory=CAPTIONS.empty_table)

    def table(self, table: str) -> pa.Table:
        return self.captions


def captions() -> Iterator[str]:
    """Yields distinct captions."""
    for where, colour, look, what, does, who in product(_WHERE, _COLOURS, _LOOKS, _WHAT, _DOES, _WHO):
        yield f"a {look} {who} {does} a {colour} {what} {where}"


def partitions(total: int, images: int) -> Iterator[Partition]:
    """Yields `total` captions in partitions of `images` images."""
    made = islice(captions(), total)
    plain = {"seed": 0, "log_probability": None, "source": "made"}
    while texts := list(islice(made, images * DRAWS)):
        rows = [
            {
                "image_id": start // DRAWS,
                "captions": [{"text": text, "draw": d, **plain} for d, text in enumerate(texts[start : start + DRAWS])],
            }
            for start in range(0, len(texts), DRAWS)
        ]
        yield Partition(captions=pa.Table.from_pylist(rows, schema=CAPTIONS))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--captions", type=int, default=10_000, help=f"number of captions, at most {MOST}")
    parser.add_argument("--images", type=int, default=100, help="images per partition")
    given = parser.parse_args()
    if not 0 < given.captions <= MOST:
        parser.error(f"--captions: {given.captions} is out of range; use 1 to {MOST}")
    every = max(given.captions // 10, 1)
    with tempfile.TemporaryDirectory() as folder:
        stage = ParseStage(ParseSettings(cache=Path(folder) / "parses.sqlite"), {})
        stage.open(Inputs())
        series = measured(stage, given.captions, given.images, Path(folder), every)
    figures: dict[str, Any] = {"machine": platform.machine(), "images a partition": given.images, "peak MiB": series}
    print(json.dumps(figures))


def measured(stage: ParseStage, total: int, images: int, work: Path, every: int) -> dict[int, float]:
    """Prints and returns captions parsed so far → peak resident memory in MiB, about once per `every` captions."""
    print(f"{'captions':>9} {'triplets':>9} {'peak MiB':>9} {'CPU s':>7}")
    series: dict[int, float] = {}
    done = triplets = 0
    began = time.process_time()
    for partition in partitions(total, images):
        found = stage.run(partition, work, lambda done, total, note="": None).table
        done += partition.captions.num_rows * DRAWS
        triplets += sum(len(row) for row in found["triplets"].to_pylist())
        if done // every > max(series, default=0) // every or done >= total:
            series[done] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)
            print(f"{done:9} {triplets:9} {series[done]:9} {time.process_time() - began:7.1f}", flush=True)
    return series


if __name__ == "__main__":
    main()
