"""Lets nodes of a Ray cluster join a training run: on each, one Ray task does what `rlip cluster join` does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pipeline.runtime.engines.ray import cancel, enter, live_nodes, run_on
from pipeline.training.launch.agent import FINISHED, join
from storage.errors import FatalError, RetryableError, first_line

LEAVING_SECONDS = 600.0
"""Seconds to wait for nodes that were asked to leave. Each ends by itself after its training run's `stop_timeout`."""


def join_with_ray(address: str, folder: Path, nodes: int, stay: bool = False) -> int:
    """Joins the training run at `address` with this many whole nodes of this machine's Ray cluster.

    This machine is the coordinator, so it is not among them. Returns the highest exit code of the nodes. Raises
    `FatalError` when Ray is not installed, the cluster has too few nodes or one can't join, and `RetryableError` when
    a node is lost. On any other exception (Ctrl-C) the nodes get time to stop the training run with a checkpoint.
    """
    try:
        import ray
    except ModuleNotFoundError as error:
        raise FatalError("Ray is not installed; pip install 'rlip[ray]' on all nodes") from error
    try:
        ray.init(address="auto")
    except ConnectionError as error:
        raise FatalError(f"this machine is in no Ray cluster ({error}); start or join one with `ray start`") from error
    try:
        with lend_nodes(ray, address, folder, nodes, stay) as running:
            return max(ray.get(running), default=FINISHED)
    except ray.exceptions.RayError as error:
        if isinstance(cause := getattr(error, "cause", None), FatalError):  # raised on the node
            raise cause from error
        raise RetryableError(f"a node of the Ray cluster was lost: {first_line(error)}") from error
    finally:
        ray.shutdown()


@contextmanager
def lend_nodes(ray: Any, address: str, folder: Path, nodes: int, stay: bool = False) -> Iterator[list[Any]]:
    """Lets nodes other than this one join the training run at `address` while the context lasts. Yields their tasks.

    `ray` is the module, connected to the cluster. At its end, the nodes get time to stop the training run with a
    checkpoint. Raises `FatalError` when the cluster has too few nodes.
    """
    own = ray.get_runtime_context().get_node_id()
    others = [node for node in live_nodes(ray) if node.id != own and node.cpus]
    if len(others) < nodes:
        raise FatalError(f"the Ray cluster has {len(others)} nodes besides this one, but {nodes} must join")
    given = (Path.cwd(), address, folder, stay)
    running = [run_on(ray, node, node.cpus, node.gpus, _join, *given) for node in others[:nodes]]
    try:
        yield running
    finally:
        cancel(ray, running)
        with suppress(ray.exceptions.RayError):
            ray.wait(running, num_returns=len(running), timeout=LEAVING_SECONDS)


def _join(start: Path, address: str, folder: Path, stay: bool) -> int:
    """Joins from the folder where relative paths begin on the coordinator. Ray's tasks begin where `ray start` ran."""
    enter(start)
    return join(address, folder, stay)
