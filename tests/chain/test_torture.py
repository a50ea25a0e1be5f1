"""The chain killed at many random moments: `make torture`. The short version is `test_resume.py`."""

from __future__ import annotations

import os
import random
import shutil
import subprocess

import pytest
from tiny_chain import World

from storage.damage import find_damage
from storage.store import Store

KILLS = int(os.environ.get("RLIP_KILLS", "0"))
SEED = int(os.environ.get("RLIP_SEED", "0"))
LONGEST = 20.0
"""Seconds that a run may live: about two stages."""


@pytest.mark.skipif(not KILLS, reason="make torture runs it; RLIP_KILLS says how often the chain is killed")
@pytest.mark.timeout(0)
def test_killed_at_random_moments_it_ends_with_the_same_bytes(finished: World, fresh: World) -> None:
    moments = random.Random(SEED)
    kills = 0
    while kills < KILLS:
        process = fresh.start(f"run.workers={moments.choice((1, 2))}")
        try:
            process.communicate(timeout=moments.uniform(0.1, LONGEST))
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            kills += 1
            assert [damage for damage in find_damage(Store(fresh.store)) if damage is not None] == []
            continue
        assert fresh.contents() == finished.contents(), f"after {kills} kills, RLIP_SEED={SEED}"
        shutil.rmtree(fresh.store)
    fresh.run()
    assert fresh.contents() == finished.contents(), f"after {kills} kills, RLIP_SEED={SEED}"
