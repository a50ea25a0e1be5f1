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


def begun(world: World, log: Path, workers: int, direct: bool) -> subprocess.Popen[bytes]:
    """A run of the chain that has reached its first step, or has ended."""
    command = world.command(f"run.workers={workers}", direct=direct)
    with log.open("wb") as out:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        run = subprocess.Popen(command, cwd=world.root, env=environment, stdout=out, stderr=subprocess.STDOUT)
    while not step_in(log) and lives(run, 0.02):
        pass
    return run


def lives(run: subprocess.Popen[bytes], seconds: float) -> bool:
    """Whether a run goes on after `seconds` more seconds."""
    with suppress(subprocess.TimeoutExpired):
        run.wait(seconds)
    return run.poll() is None


def step_in(log: Path) -> str:
    """The step that a run is in; empty before the first."""
    found = ""
    for line in log.read_text(errors="replace").splitlines():
        with suppress(ValueError, KeyError, TypeError):
            event = json.loads(line)
            found = event["step"] if event["event"] == "step" else found
    return found


@pytest.mark.skipif(not KILLS, reason="run by make torture; RLIP_KILLS sets how often the chain is killed")
@pytest.mark.timeout(0)
def test_killed_at_random_moments_it_ends_with_the_same_bytes(finished, fresh, tmp_path):
    moments, log = random.Random(SEED), tmp_path / "run.log"
    struck: Counter[str] = Counter()
    while struck.total() < KILLS:
        direct, workers = moments.random() >= PREFECT_SHARE, moments.choice((1, 2))
        first_a_child, first, then = moments.random() < CHILD_SHARE, *(moments.uniform(0, LONGEST) for _ in range(2))
        run = begun(fresh, log, workers, direct)
        if first_a_child and lives(run, first) and (below := psutil.Process(run.pid).children(recursive=True)):
            moments.choice(below).kill()
            struck[f"below {step_in(log)}"] += 1
        if lives(run, then):
            run.kill()
            struck[step_in(log)] += 1
        run.wait(timeout=60)
        print(f"kill {struck.total()} of {KILLS}, in {step_in(log)}, direct: {direct}, workers: {workers}")
        assert not any(find_damage(LocalStore(fresh.store)))
        if run.returncode == 0:
            assert fresh.contents() == finished.contents(), f"after {struck.total()} kills, RLIP_SEED={SEED}"
            shutil.rmtree(fresh.store)
        elif not first_a_child and run.returncode != -9:
            pytest.fail(f"a run failed without being killed, RLIP_SEED={SEED}:\n{log.read_text()[-3000:]}")
    fresh.run()
    assert fresh.contents() == finished.contents(), f"after {struck.total()} kills, RLIP_SEED={SEED}"
    print(f"{struck.total()} kills, RLIP_SEED={SEED}, the same bytes; killed in: {dict(struck)}")
