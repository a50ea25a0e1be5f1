"""A real Ray cluster of two local one-core nodes, one of which a test kills. All its ports are on loopback."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest import mock

import psutil

from pipeline.cli.errors import errors_reported
from pipeline.training.launch.ray_nodes import join_with_ray

ROOT = Path(__file__).resolve().parents[1]
NODE = {"num_cpus": 1, "num_gpus": 0, "object_store_memory": 80 * 2**20, "node_ip_address": "127.0.0.1"}
_ENVIRONMENT = {
    # Without this, Ray takes the machine's own address for 127.0.0.1 and listens on all of them.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray's workers have niceness 15 by default, and wait whenever anything else wants the core.
    "RAY_worker_niceness": "0",
}
# The autoscaler and the copier of logs take a second of start each, and no test is about them.
HEAD = {**NODE, "include_dashboard": False, "no_monitor": True, "include_log_monitor": False}
_IMPORTABLE = (ROOT, ROOT / "tests")


@contextmanager
def two_nodes() -> Iterator[Any]:
    """The cluster, while the context lasts. Nothing is left of it afterwards."""
    import ray
    from ray._private import ray_constants
    from ray.cluster_utils import Cluster

    path = os.pathsep.join([*map(str, _IMPORTABLE), os.environ.get("PYTHONPATH", "")])
    environment = {**_ENVIRONMENT, "PYTHONPATH": path}
    with mock.patch.dict(os.environ, environment), mock.patch.object(ray_constants, "ENABLE_RAY_CLUSTER", False):
        cluster = Cluster(initialize_head=True, head_node_args=HEAD)
        try:
            cluster.add_node(**NODE)
            yield cluster
        finally:
            ray.shutdown()
            cluster.shutdown()


def lend_a_node(address: str, work: Path) -> None:
    """Lends a node to the training at `address`, in a process of its own.

    It stands here because unpickling it must not import Ray, which reads its variables when it is imported, and a fork
    gets them only after that.
    """
    os.chdir(work.parent)  # where the relative path begins on the node, too
    with errors_reported():
        sys.exit(join_with_ray(address, Path(work.name), 1))


def host_of_node(node: Any) -> list[psutil.Process]:
    """The processes of a node, its workers and their children among them."""
    found: list[psutil.Process] = []
    for started in (info.process.pid for infos in node.all_processes.values() for info in infos):
        with suppress(psutil.NoSuchProcess):
            found += [psutil.Process(started), *psutil.Process(started).children(recursive=True)]
    return found
