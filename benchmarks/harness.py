"""Shared by all benchmarks: arguments, turns beside peers, separate processes, and rows as a table and as JSON."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import re
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.runtime.execute import installed_version

LIBRARIES = ("torch", "torchvision", "transformers", "webdataset", "litdata", "spdl", "grain")
HEADER = f"{'':64}{'ours':>10}{'peer':>10} {'':13}{'ratio':>7}"


@dataclass(frozen=True)
class Row:
    """One figure, beside a peer's if there is one. `note` stands in for figures that can't be measured here."""

    name: str
    unit: str = ""
    ours: float | None = None
    peer: float | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        return self.ours / self.peer if self.ours is not None and self.peer else None

    def __str__(self) -> str:
        if self.ours is None and self.peer is None:
            return f"{self.name:64}  {self.note}"
        ratio = "" if self.ratio is None else f"{self.ratio:.3g}x"
        return (
            f"{self.name:64}{_short(self.ours):>10}{_short(self.peer):>10} {self.unit:13}{ratio:>7}  {self.note}"
        ).rstrip()


def _short(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def parser(doc: str | None, *, small: bool = False, **sizes: int) -> argparse.ArgumentParser:
    """Returns a parser that shows the module's docstring and knows `--json` and an option per size, with its default.

    `small`: it knows `--small`, too, with which the script runs in a minute.
    """
    options = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--json", type=Path, help="write the figures to this file instead of printing them")
    if small:
        options.add_argument("--small", action="store_true", help="use small networks, to test this script")
    for name, size in sizes.items():
        options.add_argument(f"--{name.replace('_', '-')}", type=int, default=size, help="default: %(default)s")
    return options


def run(options: argparse.ArgumentParser, measure: Callable[[argparse.Namespace], Iterable[Row]]) -> list[Row]:
    """Measures, and prints each row as it comes. Then prints the figures and the machine as JSON, or writes them."""
    given = options.parse_args()
    load = os.getloadavg()[0]
    print(f"{processor()}, {os.cpu_count()} cores, load {load:.1f}\n{HEADER}", flush=True)
    rows = []
    for row in measure(given):
        print(row, flush=True)
        rows.append(row)
    versions = {"python": platform.python_version(), **{name: installed_version(name) for name in LIBRARIES}}
    machine = {"processor": processor(), "cores": os.cpu_count(), "load": load, "versions": versions}
    figures = {**machine, "arguments": vars(given), "rows": [{**asdict(row), "ratio": row.ratio} for row in rows]}
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(figures, indent=1, default=str) + "\n")
    else:
        print(json.dumps(figures, default=str))
    return rows


def processor() -> str:
    """Returns the processor's name and the CPU capability that PyTorch uses."""
    import torch

    known = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", known.read_text()) if known.is_file() else []
    return f"{(names or [platform.processor() or platform.machine()])[0]}, {torch.backends.cpu.get_cpu_capability()}"


def cpu_seconds(work: Callable[[], object]) -> float:
    """Measures the CPU-seconds of a call, those of all threads."""
    began = time.process_time()
    work()
    return time.process_time() - began


def wall_seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def best_of(ways: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Returns each way's least CPU-seconds. The ways take turns, as other work on the machine slows them all."""
    turns = [{name: cpu_seconds(way) for name, way in ways.items()} for _ in range(rounds)]
    return {name: min(turn[name] for turn in turns) for name in ways}


def in_own_process(call: Callable[..., Any], *given: Any) -> Any:
    """Calls a function in a fresh process, for a peak of memory and a start of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(call, *given).result()


def peak_mib(pid: int | str = "self") -> int:
    """Returns a process's peak memory in MiB since its program started; 0 if it has ended.

    getrusage would include the peak of the process that started it.
    """
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0
    return int(found[1]) // 1024 if found else 0


def write_noise(folder: Path, count: int, width: int = 640, height: int = 480) -> list[Path]:
    """Writes JPEGs with the detail of photographs into a new folder."""
    import numpy as np

    from pipeline.run.rehearsal_shards import noise

    folder.mkdir(parents=True, exist_ok=True)
    draws = np.random.default_rng(0)
    paths = [folder / f"{number:04d}.jpg" for number in range(count)]
    for path in paths:
        path.write_bytes(noise(width, height, draws))
    return paths
