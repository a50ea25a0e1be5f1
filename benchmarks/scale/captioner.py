"""Stands in for LAVIS behind the pipes of `pipeline/captioning/lavis_worker.py`: reads pixels, waits, and answers drawn captions.

Started by path with `python -I`. A JSON file beside the checkpoint has the seconds of an image, the vocabulary is a list of
nouns, the most frequent first. The words of a caption follow from the random numbers that came with the image.
"""

from __future__ import annotations

import json
import sys
import time
from array import array
from bisect import bisect
from itertools import accumulate
from pathlib import Path
from typing import Any

SIDE = 32
VERBS = (
    "riding", "holding", "carrying", "wearing", "watching", "eating", "pulling", "pushing", "throwing", "kicking", "washing",
    "sitting on", "standing on", "lying on", "walking with", "looking at", "leaning on", "hanging on", "standing next to",
    "standing behind", "sitting in", "standing under", "playing with", "jumping over",
)  # fmt: skip


def caption(draw: list[float], nouns: list[str], shares: list[float]) -> dict[str, Any]:
    """A sentence from three numbers in [0, 1): its subject, verb and object."""
    subject, object_ = (nouns[bisect(shares, number * shares[-1])] for number in (draw[0], draw[1]))
    verb = VERBS[int(draw[2] * len(VERBS))]
    return {"text": f"a {subject} {verb} a {object_}", "log_probability": -10 * draw[0]}


def main() -> None:
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    nouns: list[str] = []
    shares: list[float] = []
    seconds = 0.0
    while len(length := source.read(8)) == 8:
        header = json.loads(source.read(int.from_bytes(length, "little")))
        payload = source.read(header["bytes"])
        answer: dict[str, Any]
        if "weights" in header:
            seconds = json.loads(Path(header["weights"]).with_suffix(".json").read_bytes())["seconds"]
            nouns = Path(header["vocabulary"]).read_text().split("\n")
            shares = list(accumulate(1 / place for place in range(1, len(nouns) + 1)))
            answer = {"side": SIDE}
        else:
            count, draws, steps = header["images"], header["draws"], header["steps"]
            noise = array("d", payload[count * header["side"] ** 2 * 3 :])
            starts = range(0, count * draws * steps, steps)
            made = [caption(noise[start : start + 3].tolist(), nouns, shares) for start in starts]
            answer = {"captions": [made[start : start + draws] for start in range(0, count * draws, draws)]}
            time.sleep(seconds * count)
        text = json.dumps({**answer, "bytes": 0}).encode()
        sink.write(len(text).to_bytes(8, "little") + text)
        sink.flush()


if __name__ == "__main__":
    main()
