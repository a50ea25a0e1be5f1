"""Checks of the Ray cluster before work starts: is it there, do its nodes fit, and do they see what the run sees?"""

from __future__ import annotations

import platform
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.run.context import RunContext
from pipeline.run.finding import Finding
from pipeline.runtime.engines.ray_cluster import Node, NodeView, connect, live_nodes, look_around, room_for
from pipeline.runtime.execute import installed_version
from pipeline.training.settings import TrainingSettings
from storage.errors import FatalError, PipelineError
from storage.open_store import is_remote

PROBE_SECONDS = 60.0
"""How long the nodes may take to answer; a node that imports everything anew needs some."""


def ray_cluster(context: RunContext) -> Iterator[Finding]:
    """Check the cluster of a recipe with `engine = "ray"`; nothing for others."""
    address = context.recipe.run.ray_address
    if context.recipe.run.engine != "ray" or address is None:
        return
    try:
        ray = connect(address)
    except PipelineError as error:
        yield Finding("missing", "run.ray_address", str(error))
        return
    nodes = live_nodes(ray)
    amounts = f"{sum(n.cpus for n in nodes):g} CPUs and {sum(n.gpus for n in nodes):g} GPUs on {len(nodes)} nodes"
    yield Finding("ok", "run.ray_address", f"{address}: {amounts}, Ray {ray.__version__}")
    yield from _room(context, nodes)
    yield from _views(context, ray, nodes)
    if not is_remote(context.recipe.store) and len({node.host for node in nodes}) > 1:
        shared = (
            f"{context.store.root} is a folder and the nodes are {len({node.host for node in nodes})} hosts: all must mount it, "
            "from a file system on which new files are seen at once (NFS with noac, Lustre, CephFS); else set store to a URL"
        )
        yield Finding("note", "store", shared)


def _room(context: RunContext, nodes: Sequence[Node]) -> Iterator[Finding]:
    """Tell for each stage how many of its workers fit, or why none does."""
    run, seen = context.recipe.run, set()
    for step in context.steps:
        if isinstance(step.settings, TrainingSettings) and step.settings.nodes > len(nodes):
            few = (
                f"nodes = {step.settings.nodes}, but the Ray cluster has {len(nodes)} nodes; start more, or lower nodes"
            )
            yield Finding("missing", f"{step.name} on Ray", few)
        if step.stage.whole or step.stage.name in seen:
            continue
        seen.add(step.stage.name)
        if ":" in (device := str(getattr(step.settings, "device", ""))):
            named = f"{device!r} names a GPU, but Ray deals GPUs out to its workers; set device to 'cuda' or 'auto'"
            yield Finding("missing", f"{step.stage.name}.device", named)
            continue
        try:
            asked = step.stage(step.settings).resources()
        except FatalError:
            continue  # the check of the weights tells what is missing
        worker = asked.where(any_gpus=any(node.gpus for node in nodes), share=run.gpus_per_actor)
        try:
            fit = room_for(nodes, worker)
        except FatalError as error:
            yield Finding("missing", f"{step.name} on Ray", str(error))
        else:
            most = fit if run.max_actors is None else min(fit, run.max_actors)
            yield Finding("ok", f"{step.name} on Ray", f"up to {most} workers of {worker}")


def _views(context: RunContext, ray: Any, nodes: Sequence[Node]) -> Iterator[Finding]:
    """Ask every node for its version of rlip, and whether it sees the folder of the run and a store in a folder."""
    probes: list[Path] = []
    try:
        if not is_remote(context.recipe.store):
            probes.append(context.store.root / "pending" / f".probe-{uuid.uuid4().hex}")
            probes[0].touch()
        for node, answer in zip(nodes, _ask(ray, nodes, (Path.cwd(), *probes)), strict=True):
            yield from _judge(node, answer, probes)
    except (PipelineError, OSError):
        return  # the check of the store tells why it can't be used
    finally:
        for probe in probes:
            probe.unlink(missing_ok=True)


def _ask(ray: Any, nodes: Sequence[Node], paths: tuple[Path, ...]) -> list[NodeView | Exception | None]:
    """Each node's answer, or the reason why it gave none; None for a node that was lost meanwhile."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    look = ray.remote(look_around)
    running = [
        look.options(
            num_cpus=0, max_retries=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False)
        ).remote(paths)
        for node in nodes
    ]
    ray.wait(running, num_returns=len(running), timeout=PROBE_SECONDS)
    answers: list[NodeView | Exception | None] = []
    for task in running:
        try:
            answers.append(ray.get(task, timeout=0.1))
        except (ray.exceptions.TaskUnschedulableError, ray.exceptions.NodeDiedError):
            answers.append(None)
        except ray.exceptions.RayError as error:
            ray.cancel(task)
            answers.append(error)
    return answers


def _judge(node: Node, answer: NodeView | Exception | None, probes: Sequence[Path]) -> Iterator[Finding]:
    own = installed_version("rlip")
    if answer is None:
        yield Finding("note", f"node {node.ip}", "was just lost; the run goes on without it")
        return
    if isinstance(answer, Exception):
        lines = [line for line in str(answer).splitlines() if line.strip()]
        why = lines[-1].strip() if lines else repr(answer)
        yield Finding("missing", f"node {node.ip}", f"can't run rlip ({why}); install rlip {own} and its extras there")
        return
    if answer.rlip != own:
        versions = f"has rlip {answer.rlip}, and this machine ({platform.node()}) {own}; install the same"
        yield Finding("missing", f"node {node.ip}", versions)
    for path in answer.lacks:
        what = (
            f"does not see the store {path.parent.parent}; mount it there under the same path, or set store to a URL"
            if path in probes
            else f"has no folder {path}, where relative paths begin; mount it there, or run rlip in a folder of all nodes"
        )
        yield Finding("missing", f"node {node.ip}", what)
