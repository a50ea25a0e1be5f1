"""Kills the chain at many random moments: `make torture`. The short version is `test_resume.py`."""

import json
import os
import random
import shutil
import subprocess
from collections import Counter
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from tiny_chain import World

from storage.damage import find_damage
from storage.local_store import LocalStore

KILLS = int(os.environ.get("RLIP_KILLS", "0"))
SEED = int(os.environ.get("RLIP_SEED", "0"))
LONGEST = 10.0
"""Maximum seconds before a run or one of its processes is killed: about two stages."""
PREFECT_SHARE = 0.25
"""Share of runs with Prefect; the others are `--direct`. Starting Prefect takes as long as two stages."""
CHILD_SHARE = 0.25
"""Share of runs in which a child process (worker, trainer, Prefect's server) is killed before the run itself."""


class Life:
    """One run of the chain, up to its end or its death."""

    def __init__(self, world: World, workers: int, direct: bool, log: Path) -> None:
        self.how = f"{'direct' if direct else 'prefect'}, {workers} worker{'s' if workers > 1 else ''}"
        self._log = log
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                world.command(f"run.workers={workers}", direct=direct), cwd=world.root,
                env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=out, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def step(self) -> str:
        """The current step; empty before the first."""
        found = ""
        for line in self._log.read_text(errors="replace").splitlines():
            with suppress(ValueError, KeyError, TypeError):
                event = json.loads(line)
                found = event["step"] if event["event"] == "step" else found
        return found

    def lives(self, seconds: float) -> bool:
        """Whether it still runs after `seconds` more seconds."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
        return self.process.poll() is None

    def begins(self) -> bool:
        """Whether it reaches its first step."""
        while not self.step() and self.lives(0.02):
            pass
        return self.lives(0)

    def said(self) -> str:
        """The end of its output."""
        return self._log.read_text(errors="replace")[-3000:]


@pytest.mark.skipif(not KILLS, reason="run by make torture; RLIP_KILLS sets how often the chain is killed")
@pytest.mark.timeout(0)
def test_killed_at_random_moments_it_ends_with_the_same_bytes(finished, fresh, tmp_path):
    moments = random.Random(SEED)
    struck: Counter[str] = Counter()
    ends = 0
    while struck.total() < KILLS:
        direct, workers = moments.random() >= PREFECT_SHARE, moments.choice((1, 2))
        first_a_child, first, then = moments.random() < CHILD_SHARE, *(moments.uniform(0, LONGEST) for _ in range(2))
        life = Life(fresh, workers, direct, tmp_path / "run.log")
        if life.begins() and first_a_child and life.lives(first):
            below = psutil.Process(life.process.pid).children(recursive=True)
            if below:
                moments.choice(below).kill()
                struck[f"below {life.step()}"] += 1
                print(f"kill {struck.total()} of {KILLS}: {life.how}, a process below {life.step()}")
        if life.lives(then):
            life.process.kill()
            struck[life.step()] += 1
            print(f"kill {struck.total()} of {KILLS}: {life.how}, in {life.step()}")
        life.process.wait(timeout=60)
        assert [damage for damage in find_damage(LocalStore(fresh.store)) if damage is not None] == []
        if life.process.returncode == 0:
            ends += 1
            print(f"end {ends}: {life.how}, after {struck.total()} kills")
            assert fresh.contents() == finished.contents(), f"after {struck.total()} kills, RLIP_SEED={SEED}"
            shutil.rmtree(fresh.store)
        elif not first_a_child and life.process.returncode != -9:
            pytest.fail(f"a run failed without being killed, RLIP_SEED={SEED}:\n{life.said()}")
    fresh.run()
    assert fresh.contents() == finished.contents(), f"after {struck.total()} kills, RLIP_SEED={SEED}"
    print(f"{struck.total()} kills, RLIP_SEED={SEED}, {ends + 1} ends with the same bytes; killed in: {dict(struck)}")
