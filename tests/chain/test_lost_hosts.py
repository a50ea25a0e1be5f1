"""A run on two nodes of a Ray cluster, with its store on S3, loses a node or its own process at a random moment.

Each node has a cache of its own, as two machines have. `make torture` is the long form.
"""

import json
import os
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Timer
from typing import Any
from uuid import uuid4

import pytest
from ray_on_loopback import NODE, come_back, cut_off, host_of, host_of_node, kill, one_node
from small_set import write_small_set
from tiny_chain import World
from warm_process import WarmProcess

pytest.importorskip("ray")
LOSSES = int(os.environ.get("RLIP_KILLS", "0")) // 5 or 1
SEED = int(os.environ.get("RLIP_SEED", "0"))
WAYS = ("node cut off", "node killed", "run killed")
STEPS = ("ingest", "caption", "parse")
LONGEST = 1.0
"""Maximum seconds between a step's first partition and the loss. Two nodes take about as long for all partitions."""
NOTICED_SOON = {"RAY_health_check_timeout_ms": "3000", "RAY_health_check_failure_threshold": "3"}
"""With its defaults, Ray takes 65 s to notice a node that was cut off (docs/operations.md)."""
SETTINGS = ("data.partition_size=1", "run.until=parse")


def ends(process: WarmProcess, lose: Callable[[], None] = lambda: None, step: str = "", delay: float = 0.0) -> bool:
    """Follow a run to its end. Calls `lose` `delay` seconds after the first partition of `step`, if it still lives."""
    loss = Timer(delay, lose)
    for line in process.stdout:
        with suppress(ValueError):  # half a line of a run that was killed
            event = json.loads(line)
            if not loss.ident and (event.get("event"), event.get("step")) == ("committed", step):
                loss.start()
    process.wait(timeout=60)
    was_lost = loss.finished.is_set()
    loss.cancel()
    return was_lost


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


@pytest.mark.timeout(300 * LOSSES)
def test_a_host_is_lost_at_random_moments_and_digests_stay(world, cluster, machine, tmp_path):
    alone = replace(world, store=tmp_path / "alone")
    alone.run(*SETTINGS, f"reports={tmp_path / 'reports'}")
    on_ray = (*SETTINGS, "run.engine=ray", f"run.ray_address={cluster.address}")
    moments, done = random.Random(SEED), 0
    while done < LOSSES:
        name, how = uuid4().hex, WAYS[(SEED + done) % len(WAYS)]
        there = replace(world, store=f"{world.store}/{name}")
        settings = (*on_ray, f"reports={tmp_path / name}")
        machine("second")
        node = cluster.add_node(**NODE)
        machine("first")
        process = there.start(*settings)
        lose = partial(_lose, how, node, process.pid)
        if ends(process, lose, step := moments.choice(STEPS), moments.uniform(0, LONGEST)):
            done += 1
            print(f"loss {done} of {LOSSES}, {how} in {step}")
        if process.returncode != 0:
            assert how == "run killed", process.communicate()[1]
            again = there.start(*settings)
            ends(again)
            assert again.returncode == 0, again.communicate()[1]
        come_back(host_of_node(node))
        assert there.contents() == alone.contents(), f"{how}, RLIP_SEED={SEED}"
        kill(host_of_node(node))
        cluster.remove_node(node, allow_graceful=False)
    print(f"{done} losses, RLIP_SEED={SEED}, the same digests")
