"""Compares captions per CPU-second with the authors' parser: `python -m benchmarks.parsing_speed JSON...`.

A file is a list of {"caption": text}. SceneGraphParser runs on the same spaCy model, caption by caption, as in the
authors' code. Both parsers take turns on the same slices of distinct captions, without the cache, so that other load on
the machine affects them equally. Then measures the gain of the cache in a second run.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks.authors_parser import MISSING, is_installed, parse_as_authors
from benchmarks.harness import Goal, Row, cpu_seconds, parser, run
from pipeline.stages.parse_cache import ParseCache
from tagger.parsing.parser import DEFAULT_PARSER, load_parser, parse_captions

ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
TURNS = 10
UNIT = "captions/CPU-s"


def seconds_from_cache(captions: Sequence[str]) -> float:
    """Measures the CPU-seconds for captions that an earlier run has cached."""
    with tempfile.TemporaryDirectory() as folder:
        cache = ParseCache(Path(folder) / "parses.sqlite", "benchmark")
        cache.keep(dict(zip(captions, parse_captions(captions, load_parser()), strict=True)))
        return cpu_seconds(lambda: cache.find(captions))


def measure(given: Namespace) -> Iterator[Row]:
    """Yields the rates of both parsers, and that of the cache."""
    if not given.captions:
        yield Row("nothing measured", note="name JSON files of captions")
        return
    rows = [row for path in given.captions for row in json.loads(path.read_bytes())[: given.limit]]
    distinct = list(dict.fromkeys(row["caption"] for row in rows))
    ways: dict[str, Callable[[Sequence[str]], object]] = {"ours": lambda texts: parse_captions(texts, load_parser())}
    if is_installed():
        ways["theirs"] = lambda texts: parse_as_authors(texts, DEFAULT_PARSER)
    for way in ways.values():
        way(distinct[:50])
    size, taken = -(-len(distinct) // TURNS), dict.fromkeys(ways, 0.0)
    for start in range(0, len(distinct), size):
        for name, way in ways.items():
            taken[name] += cpu_seconds(lambda way=way, start=start: way(distinct[start : start + size]))
    rates = {name: len(distinct) / seconds for name, seconds in taken.items()}
    name = "distinct captions, beside the authors' parser"
    yield Row(name, UNIT, rates["ours"], rates.get("theirs"), Goal(5.0), "" if is_installed() else MISSING)
    kept = len(distinct) / seconds_from_cache(distinct)
    yield Row("distinct captions in a second run, beside the first", UNIT, kept, rates["ours"])


if __name__ == "__main__":
    if ONE_THREAD.items() - os.environ.items():  # BLAS reads these when loaded; a second thread's waiting would count
        command = [sys.executable, "-m", "benchmarks.parsing_speed", *sys.argv[1:]]
        os.execve(sys.executable, command, os.environ | ONE_THREAD)
    options = parser(__doc__)
    options.add_argument("captions", type=Path, nargs="*", metavar="JSON")
    options.add_argument("--limit", type=int, help="maximum number of captions per file")
    run(options, measure)
