"""Measures the review page under load: `python -m benchmarks.review` (small), `--images 2000000` (full size, about 15 minutes).

Writes a synthetic run (`review_run.py`), starts `rlip review` as a user does, waits until it has indexed the run, and lets
20 reviewers work at the same time (`review_clients.py`), at the pace of judging that the page aims at and then faster, and
at last four that never pause. The reviewers run on the same cores as
the server. As a peer, `pyarrow.dataset` answers the same filters by scanning the run's Parquet tables. FiftyOne and
Label Studio are not compared.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles

import numpy as np
import psutil
import pyarrow.compute as pc
import pyarrow.dataset as ds

from benchmarks.harness import Row, at_most, parser, run
from benchmarks.review_clients import FAST, IN_IMAGES, IN_THE_GRID, Pace, Reviewer, review
from benchmarks.review_run import IMAGES, NAME, PREDICATES, write_run
from storage.local_store import LocalStore
from storage.runs import Run

GOALS = {"grid": at_most(300), "image": at_most(300), "filter": at_most(1500)}
PASSWORD = "correct horse battery"
ALONE, LEAST = PREDICATES[20:25], 0.31
"""Predicates and the score by which one filters with nobody else on the page."""
PAGES = {"all labels": "labels", "images": "images", "overview": ""}
LOOK_EVERY = 0.25


class Memory(threading.Thread):
    """Watches the memory of a process with its children, in bytes that are its own or its share of pages in common."""

    def __init__(self, process: psutil.Process) -> None:
        super().__init__(daemon=True)
        self._process, self.peak, self.resident = process, 0, 0

    def processor_seconds(self) -> float:
        """What the process has taken of the processor since it began."""
        taken = self._process.cpu_times()
        return float(taken.user + taken.system)

    def run(self) -> None:
        """Looks until the process ends."""
        while self._process.is_running():
            try:
                all_of = [self._process, *self._process.children(recursive=True)]
                found = [each.memory_full_info() for each in all_of]
            except psutil.Error:
                continue
            self.peak = max(self.peak, sum(each.pss for each in found))
            self.resident = max(self.resident, sum(each.rss for each in found))
            time.sleep(LOOK_EVERY)


@contextmanager
def serving(folder: Path, run: str = NAME) -> Iterator[tuple[str, Memory, float]]:
    """`rlip review` while the context lasts: the address of its page, its memory, and seconds until it answered."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "pipeline.cli", "review", run, "--store", str(folder / "store")]
    began = time.monotonic()
    server = subprocess.Popen(
        [*command, "--port", str(port), "--name", f"127.0.0.1:{port}"],
        env={**os.environ, "RLIP_REVIEW_PASSWORD": PASSWORD}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    memory = Memory(psutil.Process(server.pid))
    memory.start()
    try:
        assert server.stdout is not None
        page = server.stdout.readline().rpartition(" ")[2].strip()
        if not page:
            raise RuntimeError("the server ended")
        while True:
            try:
                urllib.request.urlopen(f"{page}login").close()
                break
            except OSError:
                time.sleep(0.05)
        yield page, memory, time.monotonic() - began
    finally:
        server.terminate()
        server.wait()


def measure_server(folder: Path, clients: int, seconds: float) -> Iterator[Row]:
    """Starts the server twice, without an index and with one, and measures it under load."""
    with serving(folder) as (_, memory, built):
        yield Row("building the index", "s", built)
        yield Row("memory while it is built: own pages", "MB", memory.peak / 1e6)
        yield Row("memory while it is built: resident", "MB", memory.resident / 1e6, goal=at_most(1000))
    index = folder / "store" / "indexes" / "review" / f"{NAME}.duckdb"
    yield Row("size of the index", "MB", index.stat().st_size / 1e6)
    with serving(folder) as (page, memory, started):
        yield Row("starting with an index", "s", started)
        reviewers = [Reviewer(page, f"reviewer{n}", PASSWORD, PREDICATES) for n in range(clients)]
        for name, address in PAGES.items():
            yield Row(f"first page of {name}", "ms", 1000 * reviewers[0].time(address))
        loads: dict[str, tuple[Sequence[Reviewer], Sequence[Pace]]] = {
            "judging": (reviewers, (IN_THE_GRID, IN_IMAGES)), "leafing": (reviewers, (FAST,)), "no pause": (reviewers[:4], ()),
        }  # fmt: skip
        for name, (some, paces) in loads.items():
            before = memory.processor_seconds()
            found, failed = review(some, seconds, paces)
            yield Row(f"{name} / server", "cores", (memory.processor_seconds() - before) / seconds)
            for kind, taken in sorted(found.items()):
                p50, p95 = (1000 * quantiles([*taken, taken[0]], n=100, method="inclusive")[p] for p in (49, 94))
                note = f"p50 {p50:.0f} ms, {len(taken):,} requests"
                yield Row(f"{name} / {kind}, p95", "ms", p95, goal=GOALS.get(kind), note=note)
            for each in sorted({re.sub(r"\d+", "N", one) for one in failed})[:5]:
                yield Row(f"{name} / failed", note=each)
        address = "labels?predicate={}&least=" + f"{LEAST}&order=score"
        alone = median(reviewers[0].time(address.format(predicate.replace(" ", "+"))) for predicate in ALONE)
        yield Row("a filter alone, beside a scan by pyarrow.dataset", "ms", 1000 * alone, 1000 * scan(folder))
        yield Row("memory under load: own pages", "MB", memory.peak / 1e6)
        yield Row("memory under load: resident", "MB", memory.resident / 1e6, goal=at_most(1000))


def scan(folder: Path) -> float:
    """Median seconds of the same filters by a scan of the run's tables: how many labels there are, and the 20 best."""
    artifacts = Run(LocalStore(folder / "store"), NAME).artifacts("tag").values()
    files = [str(one.file("relations.parquet")) for one in artifacts]
    taken = []
    for predicate in ALONE:
        began = time.perf_counter()
        total, best = 0, np.empty(0, np.float32)
        for batch in ds.dataset(files, format="parquet").to_batches(columns=["image_id", "relations"]):
            items = batch.column("relations").flatten()
            likely = pc.greater_equal(items.field("score"), LEAST)
            found = items.filter(pc.and_(pc.equal(items.field("predicate"), predicate), likely))
            total += len(found)
            best = np.sort(np.concatenate([best, np.asarray(found.field("score"))]))[-20:]
        taken.append(time.perf_counter() - began)
    return median(taken)


def measure(given: Namespace) -> Iterator[Row]:
    """Writes the run and measures the server."""
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        began = time.monotonic()
        size = write_run(Path(name), -(-given.images // IMAGES))
        yield Row("the run's store", "MB", size / 1e6, note=f"written in {time.monotonic() - began:.0f} s")
        yield from measure_server(Path(name), given.clients, given.seconds)


if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument("--images", type=int, default=20_000)
    options.add_argument("--clients", type=int, default=20)
    options.add_argument("--seconds", type=float, default=30.0)
    options.add_argument("--folder", type=Path, help="parent of the work folder; 2,000,000 images take 2.5 GB there")
    run(options, measure)
