"""Compares captions per CPU-second with the authors' parser: `python -m benchmarks.parsing_speed JSON...`.

A file is a list of {"caption": text}. SceneGraphParser runs on the same spaCy model, caption by caption, as in the
authors' code. Both parsers take turns on the same slices of distinct captions, without the cache, so that other load on
the machine affects them equally. Then measures the gains of the cache: from repeated captions, and in a second run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.authors_parser import MISSING, is_installed, parse_as_authors
from pipeline.stages.parse_cache import ParseCache
from tagger.parsing.parser import DEFAULT_PARSER, load_parser, parse_captions

ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
_TURNS = 10


def cpu_seconds(work: Callable[[Sequence[str]], object], captions: Sequence[str]) -> float:
    """Measures the CPU-seconds of `work` on the captions."""
    began = time.process_time()
    work(captions)
    return time.process_time() - began


def by_turns(ways: dict[str, Callable[[Sequence[str]], object]], captions: Sequence[str]) -> dict[str, float]:
    """Measures each way's CPU-seconds over all captions, in turns by slice, after loading the models."""
    for work in ways.values():
        work(captions[:50])
    size = -(-len(captions) // _TURNS)
    slices = [captions[start : start + size] for start in range(0, len(captions), size)]
    taken = dict.fromkeys(ways, 0.0)
    for part in slices:
        for way, work in ways.items():
            taken[way] += cpu_seconds(work, part)
    return taken


def ours(captions: Sequence[str]) -> object:
    return parse_captions(captions, load_parser())


def from_cache(captions: Sequence[str]) -> float:
    """Measures the CPU-seconds for captions that an earlier run has cached."""
    with tempfile.TemporaryDirectory() as folder:
        cache = ParseCache(Path(folder) / "parses.sqlite", "benchmark")
        cache.keep(dict(zip(captions, parse_captions(captions, load_parser()), strict=True)))
        return cpu_seconds(cache.find, captions)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("json", type=Path, nargs="*")
    parser.add_argument("--limit", type=int, help="maximum number of captions per file")
    given = parser.parse_args()
    if ONE_THREAD.items() - os.environ.items():  # BLAS reads these when loaded; a second thread's waiting would count
        os.execve(
            sys.executable, [sys.executable, "-m", "benchmarks.parsing_speed", *sys.argv[1:]], os.environ | ONE_THREAD
        )
    if not given.json:
        print("benchmarks.parsing_speed: nothing measured; name JSON files of captions")
        return
    captions = [row["caption"] for path in given.json for row in json.loads(path.read_bytes())[: given.limit]]
    distinct = list(dict.fromkeys(captions))
    ways: dict[str, Callable[[Sequence[str]], object]] = {"ours": ours}
    if is_installed():
        ways["authors'"] = lambda texts: parse_as_authors(texts, DEFAULT_PARSER)
    rates = {way: len(distinct) / taken for way, taken in by_turns(ways, distinct).items()}
    for way, rate in rates.items():
        print(f"{way:12}{rate:9.0f} distinct captions per CPU-second")
    figures = {
        "machine": platform.processor() or platform.machine(),
        "captions": len(captions),
        "distinct captions": len(distinct),
        "captions a CPU second": {way: round(rate, 1) for way, rate in rates.items()},
    }
    if is_installed():
        figures["ratio"] = round(rates["ours"] / rates["authors'"], 2)
        print(f"{'ratio':12}{figures['ratio']:9.2f} on one core, before the cache")
    else:
        print(f"{MISSING}; its speed and the ratio are not measured")
    kept = len(distinct) / from_cache(distinct)
    once, again = len(captions) / len(distinct), kept / rates["ours"]
    figures |= {"gain of parsing each once": round(once, 3), "gain of a second run": round(again, 1)}
    print(f"cache, within a run: {len(distinct)} of {len(captions)} captions are distinct, {once:.3f} times as fast")
    print(f"cache, second run: {kept:.0f} captions per CPU-second, {again:.1f} times as fast as parsing them")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
