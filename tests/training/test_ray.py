"""A training run with nodes of a real Ray cluster, all on this machine. Needs the extra `ray`.

This takes more than a minute: Ray's processes are no forks of the tests' parent, so each imports torch by itself.
"""

import signal
from collections.abc import Iterator
from typing import Any
from unittest.mock import Mock

import psutil
import pytest
from ray_on_loopback import host_of_node, lend_a_node, two_nodes
from rlip_command import in_own_process
from small_set import train_long, write_small_set
from tiny_chain import World
from warm_process import WarmProcess, ranks_of, wait_for

from pipeline.training.launch.launcher import launch
from pipeline.training.launch.ray_nodes import join_with_ray
from storage.errors import FatalError, RetryableError
from storage.manifest import MANIFEST
from tests.training.launched import Told, config

ray = pytest.importorskip("ray")
PATIENCE = 60.0
"""`node_timeout`: none of these training runs loses a host, and on a loaded machine hosts import for long."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch, two_nodes() as made:
        patch.setenv("RAY_ADDRESS", made.address)
        yield made


def test_an_interrupt_of_a_node_of_the_cluster_stops_the_training_with_a_checkpoint(cluster, work, address):
    process = WarmProcess(lend_a_node, address, work)
    with pytest.raises(RetryableError, match="stopped before its last step"):
        made = config(work, nodes=2, address=address, node_timeout=PATIENCE, steps=1000)
        launch(made, Told(lambda: process.send_signal(signal.SIGINT)))
    process.wait(60)
    assert list((work / "checkpoints").iterdir()) and not ranks_of(work)


def test_too_small_a_cluster_is_reported(cluster, work, address):
    with pytest.raises(FatalError, match="has 1 nodes besides this one, but 5 must join"):
        join_with_ray(address, work, 5)


def test_a_node_without_the_folder_of_the_run_is_reported(cluster, work, address, monkeypatch):
    monkeypatch.setattr("pipeline.training.launch.ray_nodes.Path", Mock(**{"cwd.return_value": work / "gone"}))
    with pytest.raises(FatalError, match=r"^node .* can't enter .*/gone \(No such file or directory\)"):
        join_with_ray(address, work, 1)


def actors(cluster: Any) -> list[psutil.Process]:
    """The processes of all actors of stages."""
    pids = {process.pid for node in cluster.list_all_nodes() for process in host_of_node(node)}
    found = (process for process in psutil.process_iter(["cmdline"]) if process.pid in pids)
    return [process for process in found if "".join(process.info["cmdline"] or []).startswith("ray::StageActor")]


def test_an_interrupted_run_on_two_nodes_ends_with_the_weights_of_one_machine(cluster, address, root, tmp_path):
    recipe = write_small_set(tmp_path / "set")
    train_long(recipe.parent)
    world = World(root, recipe, recipe.parent, tmp_path / "store", "small")
    training = [f"pretrain.settings.{each}" for each in ("steps=2", "processes=1", "parallel=tree")]
    two_nodes_asked = ["run.engine=ray", f"run.ray_address={cluster.address}", "run.max_actors=1"]
    two_nodes_asked += ["pretrain.settings.nodes=2", f"pretrain.settings.address={address}"]
    two_nodes_asked += [f"pretrain.settings.node_timeout={PATIENCE}"]
    process = world.start(*training, *two_nodes_asked)
    wait_for(lambda: actors(cluster) or None, "no actor computes a stage")
    assert any('"committed"' in line for line in process.stdout)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "run the same command again to resume" in said and "Traceback" not in said
    wait_for(lambda: not actors(cluster) or None, "an actor outlived its run")

    made = []
    for place in (two_nodes_asked, []):
        if place:  # The ranks of Ray's node are no forks of the tests' parent, and all must count the same operations.
            done = in_own_process(*world.words(*training, *place), cwd=root)
            assert done.returncode == 0, done.stderr
        else:
            world.run(*training)
        (weights,) = world.artifacts()["pretrain:none"].values()
        made.append((weights.manifest.facts["processes"], weights.content))
        (weights.folder / MANIFEST).unlink()
    assert [processes for processes, _ in made] == [2, 1]
    assert made[0][1] == made[1][1]
