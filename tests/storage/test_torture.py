"""Processes on one store are killed and stopped at random moments, in a folder and on S3: bytes are always the same.

`make torture` takes RLIP_STORE_KILLS and RLIP_STOPS of them; each test here a few.
"""

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Iterator, Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest
from torture_process import PATIENCE, live, open_place, work_through
from toy_chain import bytes_of

from storage.damage import find_damage
from storage.local_store import LocalStore

KILLS = int(os.environ.get("RLIP_STORE_KILLS", "1"))
STOPS = int(os.environ.get("RLIP_STOPS", "1"))
SEED = int(os.environ.get("RLIP_SEED", "0"))
AT_ONCE = 2
ON_REQUEST = pytest.mark.skipif(
    "RLIP_STORE_KILLS" not in os.environ, reason="test_on_s3.py has one kill; `make torture`"
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The bytes that an undisturbed process leaves."""
    store = LocalStore(tmp_path_factory.mktemp("undisturbed"))
    work_through(store)
    return bytes_of(store)


class Torture:
    """Processes that work on one store after the other. Each has its own machine, a folder, where it is remote."""

    def __init__(self, folder: Path, bucket: str, environment: Mapping[str, str]) -> None:
        self._folder, self._bucket, self._environment = folder, bucket, environment
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["torture_process"])
        self.next()

    def next(self) -> None:
        """Begin with an empty store."""
        self._place = self._folder / uuid4().hex
        self._address = f"{self._bucket}/{self._place.name}" if self._bucket else ""

    def start(self, machine: int) -> BaseProcess:
        arguments = (self._address, self._machine(machine), self._environment)
        process = self._context.Process(target=live, args=arguments, daemon=True)
        process.start()
        return process

    def judge(self, whole: dict[str, Any], *, ended: bool) -> None:
        """There is nothing but what an undisturbed process makes, and all of it once a process has ended."""
        store = open_place(self._address, self._machine(AT_ONCE))
        assert [damage for damage in find_damage(store) if damage is not None] == []
        found = bytes_of(store)
        assert found == whole if ended else found.items() <= whole.items()

    def _machine(self, number: int) -> Path:
        return self._place / str(number) if self._bucket else self._place


def _strikes(torture: Torture, whole: dict[str, Any], chance: random.Random) -> Iterator[BaseProcess]:
    """Processes at random moments of their lives, some with others at work beside them, others all at once.

    Begins with an empty store whenever one is complete.
    """
    began = time.monotonic()
    torture.start(0).join(120)
    longest = time.monotonic() - began
    torture.judge(whole, ended=True)
    torture.next()
    while True:
        lives = [torture.start(machine) for machine in range(AT_ONCE)]
        try:
            until = time.monotonic() + chance.uniform(0, longest)
            while time.monotonic() < until and all(life.is_alive() for life in lives):
                time.sleep(0.005)
            for life in chance.sample(lives, chance.randint(1, AT_ONCE)):
                if life.is_alive():
                    yield life
            for life in lives:
                life.join(120)
        finally:
            for life in lives:
                life.kill()
        assert all(life.exitcode in (0, -signal.SIGKILL) for life in lives), f"RLIP_SEED={SEED}"
        ended = any(life.exitcode == 0 for life in lives)
        torture.judge(whole, ended=ended)
        if ended:
            torture.next()


def _kill(life: BaseProcess) -> bool:
    """Kill a process. Returns whether it was alive."""
    life.kill()
    life.join()
    return life.exitcode == -signal.SIGKILL


def _stop(life: BaseProcess) -> bool:
    """Stop a process for longer than a lease, then continue it. Returns whether it was alive."""
    try:
        process = psutil.Process(life.pid)
        process.suspend()
        time.sleep(PATIENCE.expiry + 0.3)
        was_stopped = bool(process.status() == psutil.STATUS_STOPPED)
        process.resume()
    except psutil.NoSuchProcess:
        return False
    return was_stopped


@pytest.mark.timeout(0)
@pytest.mark.parametrize("where", ["disk", pytest.param("s3", marks=ON_REQUEST)])
def test_killed_and_stopped_at_random_moments_they_leave_the_same_bytes(where, whole, tmp_path, request):
    bucket = request.getfixturevalue("s3") if where == "s3" else ""
    environment = request.getfixturevalue("s3_settings") if where == "s3" else {}
    chance = random.Random(SEED)
    strikes = _strikes(Torture(tmp_path, bucket, environment), whole, chance)
    for strike in chance.sample(["kill"] * KILLS + ["stop"] * STOPS, KILLS + STOPS):
        strike_one = _kill if strike == "kill" else _stop
        while not strike_one(next(strikes)):
            pass  # it ended just before
    assert next(strikes).is_alive()
    strikes.close()
    print(f"{where}: {KILLS} kills and {STOPS} stops, RLIP_SEED={SEED}")
