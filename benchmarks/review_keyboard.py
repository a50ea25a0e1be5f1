"""Measures the review page's own share of a verdict: `python -m benchmarks.review_keyboard [--labels 500]`.

A script judges label after label in Chromium by keys, without a person's time. For each verdict it takes three times from
the key: until the next label is current, until the verdict is on the server's disk and shown, and how long of that the
request took. What remains is the page's own work.
"""

from __future__ import annotations

import sys
import tempfile
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


def measure(given: Namespace) -> Iterator[Row]:
    """Yields medians and 95th percentiles of the times."""
    if not all(installed()):
        yield Row("nothing measured", note=MISSING)
        return
    with tempfile.TemporaryDirectory() as folder, browser() as window:
        book = many_images(Path(folder), images=max(1200, given.labels))
        with served(book.run.store.root, "many") as server:
            window.visit(server)
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
    run(options, measure)
