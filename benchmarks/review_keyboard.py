"""Times the review page from label to label: `python -m benchmarks.review_keyboard [--labels 500] [--faults]`.

Judges labels in Chromium by keys, taking nobody's time, and waits until each verdict is on the server's disk and shown.

With `--faults`, the script types eight keys a second whether or not they are answered, while one send in twenty fails,
half of these after the server has recorded it, and another one in twenty takes a second. The log must equal the keys.
"""

from __future__ import annotations

import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

from review_browser import MISSING, Browser, browser, installed, served
from review_runs import many_images

from benchmarks.harness import Row, parser, run

KEYS = "aaruaaraau"
"""Pressed over and over: six of ten labels are accepted, two rejected, two unsure."""

_WATCH = """
window.passed = [];
document.addEventListener("keydown", (event) => {
  const chip = document.querySelector(".chip.current");
  if (!"aru".includes(event.key) || chip.dataset.kind) return;
  const began = performance.now();
  let next = null;
  new MutationObserver((_, observer) => {
    if (!chip.dataset.kind) return;
    window.passed.push(next);
    observer.disconnect();
  }).observe(chip, {attributeFilter: ["data-kind"]});
  setTimeout(() => { next = performance.now() - began; });
}, {capture: true});
"""


def keyboard_pass(window: Browser, labels: int, ahead: int = 1) -> list[float]:
    """Judges the grid's first `labels` labels by keys. Returns milliseconds from each key to the next current label.

    `ahead`: keys that are typed before the first of them is answered.
    """
    window.open("/labels?order=image")
    window.script(_WATCH)
    found: list[float] = []
    while True:
        here = min(window.count(".chip[data-kind='']"), labels - len(found))
        keys = [KEYS[(len(found) + place) % len(KEYS)] for place in range(here)]
        for place in range(0, here, ahead):
            window.press(*keys[place : place + ahead])
            typed = min(place + ahead, here)
            window.until(lambda typed=typed: window.script("return window.passed.length") == typed)
        found += window.script("return window.passed.splice(0)")
        if len(found) >= labels:
            return found
        window.next_screen()


_FAULTS = """
const real = window.fetch;
window.failed = window.slow = 0;
window.fetch = async (address, options) => {
  const chance = options?.method === "POST" ? Math.random() : 1;
  if (chance < 0.05) window.failed += 1;
  if (chance < 0.025) throw new TypeError("no network");
  if (chance >= 0.05 && chance < 0.1) {
    window.slow += 1;
    await new Promise((resolve) => { setTimeout(resolve, 1000); });
  }
  const answer = await real(address, options);
  if (chance < 0.05) throw new TypeError("the answer was lost");
  return answer;
};
"""
PERIOD = 1 / 8
"""Seconds from key to key."""


def faulty_pass(window: Browser, labels: int) -> tuple[str, int, int]:
    """Judges the first `labels` labels of the grid, one every `PERIOD`, while sends fail and tarry.

    Returns the keys, and how many sends failed and tarried.
    """
    window.open("/labels?order=image")
    window.script(_FAULTS)
    typed = ""
    while True:
        here = min(window.count(".chip[data-kind='']"), labels - len(typed))
        due = time.monotonic()
        for _ in range(here):
            time.sleep(max(0.0, due - time.monotonic()))
            typed += KEYS[len(typed) % len(KEYS)]
            window.press(typed[-1])
            due += PERIOD
        if len(typed) >= labels:
            window.until(lambda: window.count(".chip[data-sending]") == 0)
            return typed, *window.script("return [window.failed, window.slow]")
        window.next_screen()


def measure(given: Namespace) -> Iterator[Row]:
    if not all(installed()):
        yield Row("nothing measured", note=MISSING)
        return
    with tempfile.TemporaryDirectory() as folder, browser() as window:
        book = many_images(Path(folder), images=max(1200, given.labels))
        with served(book.run.store.root, "many") as server:
            window.visit(server)
            if given.faults:
                typed, failed, slow = faulty_pass(window, given.labels)
                kinds = {"accept": "a", "reject": "r", "unsure": "u"}
                logged = [(row["image_id"], kinds[row["kind"]]) for row in server.log()]
                assert logged == list(enumerate(typed, start=1))
                note = f"{failed} sends failed, {slow} took a second; the log equals the keys"
                yield Row("keys with faults", "keys", len(typed), note=note)
                return
            times = keyboard_pass(window, given.labels)
            assert len(server.log()) == given.labels
    p50, p95 = map(float, np.percentile(times, (50, 95)))
    yield Row("until the next label is current, p95", "ms", p95, note=f"p50 {p50:.1f} ms, {len(times)} verdicts")


if __name__ == "__main__":
    options = parser(__doc__, labels=500)
    options.add_argument("--faults", action="store_true", help="type on while sends fail and tarry")
    run(options, measure)
