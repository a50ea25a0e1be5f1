"""Captions a CPU second, ours and the authors' parser on the same ones: `python -m benchmarks.parsing_speed JSON`.

The file is a list of {"caption": text}. The peer (SceneGraphParser, over the same spaCy model) is called caption by
caption, as the authors did; it is left out where it is not installed.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.authors_parser import is_installed, parse_as_authors
from tagger.parsing import DEFAULT_PARSER, load_parser, parse_captions


def rate(parse: Callable[[Sequence[str]], object], captions: Sequence[str]) -> float:
    """Captions a CPU second, after a few that do not count."""
    parse(captions[:50])
    began = time.process_time()
    parse(captions)
    return len(captions) / (time.process_time() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("json", type=Path, nargs="?")
    parser.add_argument("--limit", type=int)
    given = parser.parse_args()
    if given.json is None:
        print("benchmarks.parsing_speed: no file of captions given, nothing measured")
        return
    captions = [row["caption"] for row in json.loads(given.json.read_bytes())][: given.limit]
    distinct = list(dict.fromkeys(captions))
    ours = rate(lambda texts: parse_captions(texts, load_parser()), distinct)
    figures = {
        "machine": platform.processor() or platform.machine(),
        "captions": len(captions),
        "ours": round(ours, 1),
        "distinct captions": len(distinct),
        "gain of parsing each once": round(len(captions) / len(distinct), 3),
    }
    print(f"ours          {ours:8.0f} distinct captions a CPU second; each once: {len(captions)} → {len(distinct)}")
    if is_installed():
        peer = rate(lambda texts: parse_as_authors(texts, DEFAULT_PARSER), distinct)
        figures |= {"authors' parser": round(peer, 1), "ratio": round(ours / peer, 2)}
        print(f"the authors'  {peer:8.0f}, ratio {ours / peer:.2f}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
