"""Trainings of the stand-in worker, the nodes that join them, and what can be seen of their processes."""

import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from warm_process import WarmProcess

from pipeline.training.config import TrainConfig
from pipeline.training.launch import agent, messages
from pipeline.training.launch.agent import join
from pipeline.training.settings import TrainingSettings
from tests.training.conftest import TINY

ROOT = Path(__file__).parents[2]
WORKER = "tests.training.loop_worker"

# Nodes look for each other and tell each other something ten times as often as users' do.
messages.TICK_SECONDS, agent.PROBE_SECONDS, agent.NEXT_SECONDS = 0.05, 0.1, 0.5


def config(work: Path, **changes) -> TrainConfig:
    values = TINY | {"micro_batch": 1, "steps": 8, "checkpoint_every": 1000, "collective_timeout": 60.0}
    values |= {"node_timeout": 3.0} | changes
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
def agent(address: str, folder: Path, stay: bool = False, worker: str = WORKER) -> Iterator[WarmProcess]:
    """Runs another node, which is killed at the end if it still runs."""
    process = WarmProcess(_join, address, folder, stay, worker)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _join(address: str, folder: Path, stay: bool, worker: str) -> None:
    sys.exit(join(address, folder, stay, worker))


def end_of(process: WarmProcess) -> tuple[int, str]:
    said, _ = process.communicate(timeout=60)
    return process.wait(), said


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


def worlds(work: Path) -> list[int]:
    """Returns the number of ranks at each step."""
    return [int(line.split()[1]) for line in (work / "steps.txt").read_text().splitlines()]


def starts(work: Path) -> list[str]:
    return (work / "starts.txt").read_text().splitlines()
