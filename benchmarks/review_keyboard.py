"""Measures the review page's own share of a verdict: `python -m benchmarks.review_keyboard [--labels 500] [--faults]`.

A script judges label after label in Chromium by keys, without a person's time. For each verdict it takes three times from
the key: until the next label is current, until the verdict is on the server's disk and shown, and how long of that the
request took. What remains is the page's own work.

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
from typing import Any

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
  const one = {label: Number(chip.dataset.label), key: event.key, began: performance.now()};
  new MutationObserver((_, observer) => {
    if (!chip.dataset.kind) return;
    one.shown = performance.now() - one.began;
    window.passed.push(one);
    observer.disconnect();
  }).observe(chip, {attributeFilter: ["data-kind"]});
  setTimeout(() => { one.next = performance.now() - one.began; });
}, {capture: true});
"""
_TAKE = """
const asked = performance.getEntriesByType("resource").filter((e) => new URL(e.name).pathname.endsWith("/verdicts"));
const found = window.passed.splice(0).map((one) => {
  const request = asked.find((e) => e.startTime >= one.began);
  return {...one, request: request ? request.responseEnd - request.startTime : null};
});
performance.clearResourceTimings();
return found;
"""


def keyboard_pass(window: Browser, labels: int, ahead: int = 1) -> list[dict[str, Any]]:
    """Judges the first `labels` labels of the grid by keys. Returns, for each, its number, key and times in milliseconds.

    `ahead`: keys that are typed before the first of them is answered. From two on, times hold the waiting for each other.
    """
    window.open("/labels?order=image")
    window.script("performance.setResourceTimingBufferSize(5000);" + _WATCH)
    found: list[dict[str, Any]] = []
    while True:
        here = min(window.count(".chip[data-kind='']"), labels - len(found))
        keys = [KEYS[(len(found) + place) % len(KEYS)] for place in range(here)]
        for place in range(0, here, ahead):
            window.press(*keys[place : place + ahead])
            typed = min(place + ahead, here)
            window.until(lambda typed=typed: window.script("return window.passed.length") == typed)
        found += window.script(_TAKE)
        if len(found) >= labels:
            return found
        before = window.text(".pager span")
        window.press("n")
        window.until(lambda before=before: window.text(".pager span") not in ("", before))
        window.ready()


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
        before = window.text(".pager span")
        window.press("n")
        window.until(lambda before=before: window.text(".pager span") not in ("", before))
        window.ready()


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
    table = {
        "until the next label is current": [one["next"] for one in times],
        "until the verdict is on disk and shown": [one["shown"] for one in times],
        "of that, the request": [one["request"] for one in times],
        "the page's own share": [one["shown"] - one["request"] for one in times],
    }
    for name, values in table.items():
        p50, p95 = map(float, np.percentile(values, (50, 95)))
        yield Row(f"{name}, p95", "ms", p95, note=f"p50 {p50:.1f} ms, {len(values)} verdicts")


if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument("--labels", type=int, default=500)
    options.add_argument("--faults", action="store_true", help="type on while sends fail and tarry")
    run(options, measure)
