"""A training with nodes of a real Ray cluster, all on this machine. Needs the extra `ray`."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.runtime.engines.ray_cluster import connect
from pipeline.training.launch.launcher import launch
from pipeline.training.launch.ray_nodes import lend_nodes
from storage.errors import FatalError, RetryableError
from tests.training.launched import PYTHONPATH, WORKER, Told, config, ranks_of

ray = pytest.importorskip("ray")
JOIN = (
    "import sys; from pathlib import Path; from pipeline.training.launch.ray_nodes import join_with_ray; "
    "from pipeline.cli.errors import errors_reported\n"
    f"with errors_reported(): sys.exit(join_with_ray(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), worker={WORKER!r}))"
)


@pytest.fixture
def cluster(monkeypatch):
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([PYTHONPATH, os.environ.get("PYTHONPATH", "")]))
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    made.add_node(num_cpus=1)
    monkeypatch.setenv("RAY_ADDRESS", made.address)
    yield made
    made.shutdown()


def joined(address: str, work: Path, nodes: int = 1) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", JOIN, address, str(work), str(nodes)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def test_a_node_of_the_cluster_takes_part_to_the_end(cluster, work, address):
    process = joined(address, work)
    summary = launch(config(work, hosts=2, address=address), Told(), WORKER)
    assert summary.processes == 4
    assert process.wait(60) == 0


def test_a_run_on_the_cluster_lends_its_other_nodes(cluster, work, address):
    connected = connect(cluster.address)
    try:
        with lend_nodes(connected, address, work, 1, worker=WORKER) as running:
            summary = launch(config(work, hosts=2, address=address), Told(), WORKER)
            assert connected.get(running, timeout=60) == [0]
        with pytest.raises(FatalError, match="has 1 nodes besides this one, and 2 are to join"):
            lend_nodes(connected, address, work, 2).__enter__()
    finally:
        connected.shutdown()
    assert summary.processes == 4


def test_an_interrupt_stops_the_training_with_a_checkpoint(cluster, work, address):
    process = joined(address, work)
    with pytest.raises(RetryableError, match="stopped before its last step"):
        launch(
            config(work, hosts=2, address=address, steps=1000), Told(lambda: process.send_signal(signal.SIGINT)), WORKER
        )
    process.wait(60)
    assert list((work / "checkpoints").iterdir()) and not ranks_of(work)


def test_too_small_a_cluster_is_told(cluster, work, address):
    process = joined(address, work, nodes=5)
    assert "has 1 nodes besides this one, and 5 are to join" in process.communicate(timeout=60)[1]
