"""A run on two nodes of a Ray cluster, with its store on S3, loses a node or its own process at a random moment.

Each node has a cache of its own, as two machines have. `make torture` is the long form.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from queue import Empty, Queue
from threading import Thread, Timer
from typing import Any
from uuid import uuid4

import pytest
from lost_hosts import come_back, cut_off, host_of, kill
from ray_on_loopback import NODE, host_of_node, one_node
from small_set import write_small_set
from tiny_chain import World

pytest.importorskip("ray")
LOSSES = int(os.environ.get("RLIP_KILLS", "0")) // 5 or 1
SEED = int(os.environ.get("RLIP_SEED", "0"))
WAYS = ("node cut off", "node killed", "run killed")
STEPS = ("ingest", "caption", "parse")
LONGEST = 1.0
"""Maximum seconds between the first partition of a step and the loss. Two nodes take about as long for all of its partitions."""
PATIENCE = 60.0
"""Maximum seconds until a run commits its next partition or starts its next step, whatever is lost."""
NOTICED_SOON = {"RAY_health_check_timeout_ms": "3000", "RAY_health_check_failure_threshold": "3"}
"""With its defaults, Ray takes 65 s to notice a node that was cut off (docs/operations.md)."""
SETTINGS = ("data.partition_size=1", "run.until=parse")


class Life:
    """One run, up to its end or its death."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.silence = 0.0
        """The longest time without progress so far."""
        self._events: Queue[dict[str, Any] | None] = Queue()
        Thread(target=self._read, daemon=True).start()

    def ends(self, lose: Callable[[], None] = lambda: None, step: str = "", delay: float = 0.0) -> bool:
        """Follow the run to its end. Calls `lose` `delay` seconds after the first partition of `step`, if it lives that long."""
        loss = Timer(delay, lose)
        while event := self._next():
            if not loss.ident and (event["event"], event["step"]) == ("committed", step):
                loss.start()
        self.process.wait(timeout=PATIENCE)
        was_lost = loss.finished.is_set()
        loss.cancel()
        return was_lost

    def said(self) -> str:
        """What the run wrote to standard error."""
        return self.process.communicate()[1]

    def _next(self) -> dict[str, Any] | None:
        """The next event that is progress, or None at the end."""
        began = time.monotonic()
        try:
            return self._events.get(timeout=PATIENCE)
        except Empty:
            self.process.kill()
            pytest.fail(f"no progress in {PATIENCE:.0f} s: {self.said()}")
        finally:
            self.silence = max(self.silence, time.monotonic() - began)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for event in map(json.loads, self.process.stdout):
            if event.get("event") in ("committed", "step"):
                self._events.put(event)
        self._events.put(None)


@pytest.fixture
def world(s3: str, root: Path, tmp_path: Path) -> World:
    """Pictures with captions in 12 partitions, and a bucket for stores."""
    recipe = write_small_set(tmp_path / "set", 12)
    return World(root, recipe, recipe.parent, s3, "small")


@pytest.fixture
def cluster(s3: str, machine: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The cluster with its first node. The test adds the second."""
    for name, value in NOTICED_SOON.items():
        monkeypatch.setenv(name, value)
    machine("first")
    with one_node() as made:
        yield made


def _lose(how: str, node: Any, run: int) -> None:
    host = host_of(run) if how == "run killed" else host_of_node(node)
    (cut_off if how == "node cut off" else kill)(host)


@pytest.mark.timeout(0 if LOSSES > 1 else 300)
def test_a_host_is_lost_at_random_moments_and_digests_stay(
    world: World, cluster: Any, machine: Callable[[str], None], tmp_path: Path
) -> None:
    alone = replace(world, store=tmp_path / "alone")
    alone.run(*SETTINGS, f"reports={tmp_path / 'reports'}")
    on_ray = (*SETTINGS, "run.engine=ray", f"run.ray_address={cluster.address}")
    moments, done, longest = random.Random(SEED), 0, 0.0
    while done < LOSSES:
        name, how = uuid4().hex, WAYS[(SEED + done) % len(WAYS)]
        there = replace(world, store=f"{world.store}/{name}")
        settings = (*on_ray, f"reports={tmp_path / name}")
        machine("second")
        node = cluster.add_node(**NODE)
        machine("first")
        life = Life(there.start(*settings))
        lose = partial(_lose, how, node, life.process.pid)
        if life.ends(lose, step := moments.choice(STEPS), moments.uniform(0, LONGEST)):
            done, longest = done + 1, max(longest, life.silence)
            print(f"loss {done} of {LOSSES}, {how} in {step}: at most {life.silence:.1f} s without progress")
        if life.process.returncode != 0:
            assert how == "run killed", life.said()
            again = Life(there.start(*settings))
            again.ends()
            assert again.process.returncode == 0, again.said()
            longest = max(longest, again.silence)
        come_back(host_of_node(node))
        assert there.contents() == alone.contents(), f"{how}, RLIP_SEED={SEED}"
        kill(host_of_node(node))
        cluster.remove_node(node, allow_graceful=False)
    print(f"{done} losses, RLIP_SEED={SEED}, the same digests; at most {longest:.1f} s without progress")
