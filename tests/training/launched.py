"""Trainings of the stand-in worker, the hosts that join them, and what can be seen of their processes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from pipeline.training.config import TrainConfig
from pipeline.training.settings import TrainingSettings
from tests.training.conftest import TINY

ROOT = Path(__file__).parents[2]
WORKER = "loop_worker"
JOIN = (
    "import sys; from pathlib import Path; from pipeline.training.launch.agent import join; "
    f"sys.exit(join(sys.argv[1], Path(sys.argv[2]), '--stay' in sys.argv, {WORKER!r}))"
)
PYTHONPATH = f"{ROOT}{os.pathsep}{Path(__file__).parent}"
"""Where the processes of a training find the stand-in worker."""


def config(work: Path, **changes) -> TrainConfig:
    values = TINY | {"micro_batch": 1, "steps": 8, "checkpoint_every": 1000, "collective_timeout": 60.0} | changes
    return TrainConfig(kind="pretrain", settings=TrainingSettings(**values), work=work)


class Told:
    """Collects what a launch reports, and does something once at the first progress."""

    def __init__(self, at_progress: Callable[[], None] = lambda: None) -> None:
        self.notes: list[str] = []
        self._at_progress: Callable[[], None] | None = at_progress

    def __call__(self, done: int, total: int, note: str = "") -> None:
        self.notes.append(note)
        if done and self._at_progress:
            act, self._at_progress = self._at_progress, None
            act()

    def of(self, word: str) -> list[str]:
        return [note for note in self.notes if word in note]


@contextmanager
def agent(address: str, folder: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """Runs another host, which is killed at the end if it still runs."""
    process = subprocess.Popen(
        [sys.executable, "-c", JOIN, address, str(folder), *options],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def end_of(process: subprocess.Popen[str]) -> tuple[int, str]:
    said, _ = process.communicate(timeout=60)
    return process.returncode, said


def listening(process: int) -> set[str]:
    """Returns the addresses on which a process listens."""
    sockets = set()
    for file in Path(f"/proc/{process}/fd").iterdir():
        try:
            target = str(file.readlink())
        except OSError:
            continue
        sockets.add(target.removeprefix("socket:[").removesuffix("]"))
    found = set()
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in sockets:
                address, port = fields[1].split(":")
                ip = socket.inet_ntop(socket.AF_INET, bytes.fromhex(address)[::-1]) if name == "tcp" else address
                found.add(f"{ip}:{int(port, 16)}")
    return found


def ranks_of(work: Path) -> list[int]:
    """Returns the ids of all ranks of a training."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if f"{work}/config.json" in (process.info["cmdline"] or []):
            found.append(process.pid)
    return found


def worlds(work: Path) -> list[int]:
    """Returns the number of ranks at each step."""
    return [int(line.split()[1]) for line in (work / "steps.txt").read_text().splitlines()]


def starts(work: Path) -> list[str]:
    return (work / "starts.txt").read_text().splitlines()
