"""Trainings of the stand-in worker, the nodes that join them, and what can be seen of their processes."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from warm_process import WarmProcess

from pipeline.training.config import TrainConfig
from pipeline.training.launch import agent, messages
from pipeline.training.launch.agent import join
from tests.training.conftest import config_of

ROOT = Path(__file__).parents[2]
WORKER = "tests.training.loop_worker"

# Nodes look for each other and tell each other something ten times as often as users' do.
messages.TICK_SECONDS, agent.PROBE_SECONDS, agent.NEXT_SECONDS = 0.05, 0.1, 0.5


def config(work: Path, **changes) -> TrainConfig:
    values = {"micro_batch": 1, "steps": 8, "checkpoint_every": 1000, "collective_timeout": 60.0, "node_timeout": 3.0}
    return config_of(work, **values | changes).model_copy(update={"worker": WORKER})


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
def agent(address: str, folder: Path, stay: bool = False) -> Iterator[WarmProcess]:
    """Runs another node, which is killed at the end if it still runs."""
    process = WarmProcess(_join, address, folder, stay)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _join(address: str, folder: Path, stay: bool) -> None:
    sys.exit(join(address, folder, stay))


def end_of(process: WarmProcess) -> tuple[int, str]:
    said, _ = process.communicate(timeout=60)
    return process.wait(), said


def listening(process: int) -> set[str]:
    """Returns the addresses on which a process listens."""
    open_ones = psutil.Process(process).net_connections("tcp")
    return {f"{each.laddr.ip}:{each.laddr.port}" for each in open_ones if each.status == psutil.CONN_LISTEN}


def worlds(work: Path) -> list[int]:
    """Returns the number of ranks at each step."""
    return [int(line.split()[1]) for line in (work / "steps.txt").read_text().splitlines()]


def starts(work: Path) -> list[str]:
    return (work / "starts.txt").read_text().splitlines()
