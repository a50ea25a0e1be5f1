"""A real Ray cluster of two local one-core nodes that tests kill or cut off. All its ports are on loopback."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator
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
Host = list[psutil.Process]
_IMPORTABLE = (ROOT, ROOT / "tests")


@contextmanager
def one_node() -> Iterator[Any]:
    """A cluster of its head, while the context lasts. Nothing is left of it and of nodes that were added afterwards."""
    import ray
    from ray._private import ray_constants
    from ray.cluster_utils import Cluster

    path = os.pathsep.join([*map(str, _IMPORTABLE), os.environ.get("PYTHONPATH", "")])
    environment = {**_ENVIRONMENT, "PYTHONPATH": path}
    with mock.patch.dict(os.environ, environment), mock.patch.object(ray_constants, "ENABLE_RAY_CLUSTER", False):
        cluster = Cluster(initialize_head=True, head_node_args=HEAD)
        try:
            yield cluster
        finally:
            ray.shutdown()
            cluster.shutdown()


@contextmanager
def two_nodes(**more: Any) -> Iterator[Any]:
    """The cluster, while the context lasts; `more` goes to the second node. Nothing is left of it afterwards."""
    with one_node() as cluster:
        cluster.add_node(**{**NODE, **more})
        yield cluster


def lend_a_node(address: str, work: Path) -> None:
    """Lends a node to the training at `address`, in a process of its own.

    It stands here because unpickling it must not import Ray, which reads its variables when it is imported, and a fork
    gets them only after that.
    """
    with errors_reported():
        sys.exit(join_with_ray(address, work, 1))


def host_of_node(node: Any) -> Host:
    """The processes of a node, its workers and their children among them."""
    return host_of(*(info.process.pid for infos in node.all_processes.values() for info in infos))


def host_of(*started: int) -> Host:
    """The processes of a node or a run: those of these that live, and all below them."""
    found: Host = []
    for pid in started:
        with suppress(psutil.NoSuchProcess):
            found += [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    return found


def kill(host: Host) -> None:
    """Kill all processes at once, as a loss of power does."""
    _each(process.kill for process in host)


def cut_off(host: Host) -> None:
    """Stop all processes: connections to them stay open, and nothing answers."""
    _each(process.suspend for process in host)


def come_back(host: Host) -> None:
    """Let those go on that were cut off."""
    _each(process.resume for process in host)


def _each(signals: Iterable[Callable[[], None]]) -> None:
    for send in signals:
        with suppress(psutil.NoSuchProcess):
            send()
