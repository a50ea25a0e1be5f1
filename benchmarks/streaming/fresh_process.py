"""Tasks of the streaming benchmark that need a process that did nothing before. Each prints its figures as JSON."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import psutil
import webdataset

from storage.shards.sample_map import SampleMap
from storage.stream.stream import Stream

Figures = dict[str, float]


def resume(folder: str, state: str) -> Figures:
    """Opens a map and reads the first sample after a state."""
    began = time.perf_counter()
    stream = Stream(SampleMap(Path(folder)), batch=10)
    stream.load_state_dict(json.loads(Path(state).read_bytes()))
    next(iter(stream))
    return {"seconds": time.perf_counter() - began}


def skip(tar: str, count: str) -> Figures:
    """Reads the sample after those that webdataset has to read to skip them."""
    began = time.perf_counter()
    samples = webdataset.WebDataset([tar], shardshuffle=False).repeat()
    next(islice(iter(samples), int(count), None))
    return {"seconds": time.perf_counter() - began}


def imported() -> Figures:
    """Measures the memory of a process that only imported the modules."""
    return memory()


def stream(folder: str, count: str) -> Figures:
    """Opens a map and streams samples of it in random order."""
    began = time.perf_counter()
    samples = SampleMap(Path(folder))
    opened = time.perf_counter() - began
    stream = Stream(samples, batch=8)
    for _ in islice(stream, int(count)):
        pass
    return {"open_s": opened, "files": psutil.Process().num_fds(), **memory()}


def memory() -> Figures:
    """Returns the memory in MB that is this process's alone, and the part of it that it wrote: no pages of mapped files."""
    written = sum(each.private_dirty for each in psutil.Process().memory_maps(grouped=False))
    return {"private_mb": psutil.Process().memory_full_info().uss / 1e6, "written_mb": written / 1e6}


TASKS: dict[str, Callable[..., Figures]] = {
    "resume": resume,
    "webdataset": skip,
    "imported": imported,
    "stream": stream,
}

if __name__ == "__main__":
    print(json.dumps(TASKS[sys.argv[1]](*sys.argv[2:])))
