"""Measures the review page under load: `python -m benchmarks.review` (small), `--images 2000000` (full size, about 15 minutes).

Writes a synthetic run (`review_run.py`), starts `rlip review` as a user does, waits until it has indexed the run, and lets
20 reviewers work at the same time (`review_clients.py`), at the pace of judging that the page aims at and then faster, and
at last four that never pause. The reviewers run on the same cores as
the server. As a peer, `pyarrow.dataset` answers the same filters by scanning the run's Parquet tables. FiftyOne and
Label Studio are not compared.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.compute as pc
import pyarrow.dataset as ds

from benchmarks.review_clients import FAST, IN_IMAGES, IN_THE_GRID, Pace, Reviewer, review
from benchmarks.review_run import IMAGES, NAME, Words, write_run
from storage.local_store import LocalStore
from storage.runs import Run

GOALS = {"grid": 0.3, "image": 0.3, "filter": 1.5}
PASSWORD = "correct horse battery"
_LEAST = 0.31
_ALONE = slice(20, 25)
"""Predicates by which one filters with nobody else on the page."""
_PEAK = 0.25
"""Seconds between two looks at the memory."""


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
            time.sleep(_PEAK)


@contextmanager
def serving(folder: Path, run: str = NAME) -> Iterator[tuple[str, Memory, float]]:
    """`rlip review` while the context lasts: the address of its page, its memory, and seconds until it answered."""
    command = [str(Path(sys.executable).with_name("rlip")), "review", run, "--store", str(folder / "store")]
    port = _free_port()
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


def measure(folder: Path, clients: int, seconds: float) -> dict[str, Any]:
    """Starts the server twice, without an index and with one, and measures it under load."""
    with serving(folder) as (_, memory, built):
        figures: dict[str, Any] = {"index_seconds": round(built, 1), "index_peak_mb": round(memory.resident / 1e6)}
    index = folder / "store" / "indexes" / "review" / f"{NAME}.duckdb"
    figures["index_mb"] = round(index.stat().st_size / 1e6)
    predicates = Words.make().names()
    with serving(folder) as (page, memory, started):
        figures["start_seconds"] = round(started, 1)
        reviewers = [Reviewer(page, f"reviewer{n}", PASSWORD, predicates) for n in range(clients)]
        figures["pages"] = _first_pages(reviewers[0])
        for name, some, paces in _loads(reviewers):
            before = memory.processor_seconds()
            found, failed = review(some, seconds, paces)
            figures[name] = {kind: _spread(taken) for kind, taken in sorted(found.items())}
            figures[name]["failed"] = len(failed)
            figures[name]["server_cores"] = round((memory.processor_seconds() - before) / seconds, 2)
            figures[name]["load_average"] = os.getloadavg()[0]
            figures[name]["requests_per_second"] = round(sum(map(len, found.values())) / seconds, 1)
            for each in sorted({re.sub(r"\d+", "N", one) for one in failed})[:5]:
                print(f"failed: {each}")
        figures["alone"] = _alone(reviewers[0], predicates)
        figures["peak_mb"] = round(memory.resident / 1e6)
        figures["peak_pss_mb"] = round(memory.peak / 1e6)
    return figures


def _loads(reviewers: Sequence[Reviewer]) -> Iterator[tuple[str, Sequence[Reviewer], Sequence[Pace]]]:
    """Who works, and at which paces, by name."""
    yield "judging", reviewers, (IN_THE_GRID, IN_IMAGES)
    yield "fast", reviewers, (FAST,)
    yield "hurrying", reviewers[:4], ()


def _first_pages(reviewer: Reviewer) -> dict[str, float]:
    """Seconds of pages that no one has opened before."""
    addresses = {
        "overview": "", "labels": "labels", "images": "images", "first images": "images/rows?start=0&size=60",
        "last images": "images/rows?start=900000&size=60", "audit": "audit",
        "information": "labels?order=informative",
    }  # fmt: skip
    for name, address in addresses.items():
        reviewer._timed(name, "GET", address)
    return {name: round(reviewer.seconds[name][0], 3) for name in addresses if reviewer.seconds[name]}


def _alone(reviewer: Reviewer, predicates: list[str]) -> dict[str, Any]:
    """One filter at a time with nobody else on the page: median seconds of predicates that nobody has looked at."""
    for predicate in predicates[_ALONE]:
        reviewer._timed("alone", "GET", f"labels?predicate={predicate.replace(' ', '+')}&least={_LEAST}&order=score")
    return _spread(reviewer.seconds["alone"])


def scan(folder: Path) -> dict[str, Any]:
    """The filters of `_alone` by a scan of the run's tables: how many labels there are, and the 20 best."""
    store = LocalStore(folder / "store")
    files = [str(one.file("relations.parquet")) for one in Run(store, NAME).artifacts("tag").values()]
    taken = []
    for predicate in Words.make().names()[_ALONE]:
        began = time.perf_counter()
        total, best = 0, np.empty(0, np.float32)
        for batch in ds.dataset(files, format="parquet").to_batches(columns=["image_id", "relations"]):
            items = batch.column("relations").flatten()
            found = items.filter(
                pc.and_(pc.equal(items.field("predicate"), predicate), pc.greater_equal(items.field("score"), _LEAST))
            )
            total += len(found)
            best = np.sort(np.concatenate([best, np.asarray(found.field("score"))]))[-20:]
        taken.append(time.perf_counter() - began)
    return _spread(taken)


def _spread(seconds: list[float]) -> dict[str, float]:
    """Number of requests, and percentiles in milliseconds."""
    if len(seconds) < 2:
        return {"requests": len(seconds)}
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    return {"requests": len(seconds), **{f"p{p}": round(cuts[p - 1] * 1000, 1) for p in (50, 95, 99)}}


def _free_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        found: int = listener.getsockname()[1]
        return found


def main() -> None:
    """Measures, and prints a table and JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--folder", type=Path, help="parent of the work folder; 2,000,000 images take 2.5 GB there")
    parser.add_argument("--run", type=Path, help="a folder that `review_run.write_run` has written, which stays")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = arguments.run or Path(name)
        began = time.monotonic()
        figures: dict[str, Any] = {"images": arguments.images}
        if arguments.run is None:
            figures["store_mb"] = round(write_run(folder, -(-arguments.images // IMAGES)) / 1e6)
            figures["written_seconds"] = round(time.monotonic() - began, 1)
        figures |= measure(folder, arguments.clients, arguments.seconds)
        figures["scan"] = scan(folder)
    figures |= {"machine": platform.machine(), "cores": os.cpu_count(), "load_average": os.getloadavg()[0]}
    for name in ("judging", "fast", "hurrying"):
        print(f"{name}: { ({key: value for key, value in figures[name].items() if not isinstance(value, dict)}) }")
        for kind, spread in figures[name].items():
            if isinstance(spread, dict):
                goal = f"  (goal: p95 under {GOALS[kind] * 1000:.0f})" if kind in GOALS else ""
                print(f"{name:9} {kind:8} {spread}{goal}")
    print(json.dumps(figures))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
