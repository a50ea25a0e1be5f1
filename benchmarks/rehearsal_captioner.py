"""Stands in for LAVIS behind the pipe of `pipeline/captioning/lavis_worker.py`: reads pixels, answers drawn captions.

Started by path with `python -I`. The vocabulary is a list of nouns, the most frequent first. The words of a caption
follow from the first random number that came with it.
"""

from __future__ import annotations

import json
import sys
from array import array
from contextlib import suppress
from itertools import accumulate
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import Any

SIDE = 32
VERBS = (
    "riding", "holding", "carrying", "wearing", "watching", "eating", "pulling", "pushing", "throwing", "kicking",
    "washing", "sitting on", "standing on", "lying on", "walking with", "looking at", "leaning on", "hanging on",
    "standing next to", "standing behind", "sitting in", "standing under", "playing with", "jumping over",
)  # fmt: skip


def caption(number: float, nouns: list[str], shares: list[float]) -> dict[str, Any]:
    random = Random(number)
    subject, object_ = random.choices(nouns, cum_weights=shares, k=2)
    return {"text": f"a {subject} {random.choice(VERBS)} a {object_}", "log_probability": -10 * number}


def main() -> None:
    channel = Connection(int(sys.argv[1]))
    nouns: list[str] = []
    shares: list[float] = []
    while True:
        header, payload = json.loads(channel.recv_bytes()), channel.recv_bytes()
        answer: dict[str, Any] = {"side": SIDE}
        if "vocabulary" in header:
            nouns = Path(header["vocabulary"]).read_text().split("\n")
            shares = list(accumulate(1 / place for place in range(1, len(nouns) + 1)))
        else:
            noise, draws = array("d", payload[header["images"] * header["side"] ** 2 * 3 :]), header["draws"]
            made = [caption(number, nouns, shares) for number in noise[:: header["steps"]]]
            answer = {"captions": [made[start : start + draws] for start in range(0, len(made), draws)]}
        channel.send_bytes(json.dumps(answer).encode())


if __name__ == "__main__":
    with suppress(EOFError):
        main()
