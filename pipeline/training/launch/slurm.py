"""Writes the batch script that runs a recipe on one or several nodes of a Slurm cluster."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from pathlib import Path

_HEAD = """\
#!/bin/bash
{options}
set -u

"""
_NODES = """\
# The first node is the coordinator and runs the recipe; the others wait for its training runs. All must see this
# folder, the data and the store under the same paths, and the first node's name must not resolve to a loopback address
# on itself.
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
address=$first:$((20000 + SLURM_JOB_ID % 20000))

srun --nodes={others} --ntasks={others} --cpus-per-task="$SLURM_CPUS_ON_NODE" --exclude="$first" \\
    rlip cluster join "$address" {store} --stay &
joined=$!
srun --nodes=1 --ntasks=1 --cpus-per-task="$SLURM_CPUS_ON_NODE" --nodelist="$first" \\
    rlip run {recipe} {overrides} &
"""
_NODE = """\
srun --nodes=1 --ntasks=1 --cpus-per-task="$SLURM_CPUS_ON_NODE" rlip run {recipe} {overrides} &
"""
_TAIL = """\
run=$!

# Before the time limit, Slurm asks this script to end. The training run writes a checkpoint, and the job is requeued.
stopped=
trap 'stopped=yes; kill -TERM "$run"' TERM
wait "$run"
code=$?
if [ "$stopped" ]; then
    wait "$run"
    scontrol requeue "$SLURM_JOB_ID"
fi
"""
_LEAVE = """\
kill "$joined" 2>/dev/null
wait "$joined"
"""
_MARGIN = 30
"""Seconds before the time limit, besides the training run's `stop_timeout`, at which Slurm asks it to end."""
_SECTIONS = ("train_tagger", "pretrain.settings")
"""Sections of a recipe that describe training runs."""


def training_overrides(nodes: int, gpus: int | None) -> list[str]:
    """Returns the settings, as for `--set`, that let all training runs of a recipe use this many nodes and GPUs."""
    processes = [f"{section}.processes={gpus}" for section in _SECTIONS] if gpus else []
    return [*processes, *(f"{section}.nodes={nodes}" for section in _SECTIONS)]


def sbatch_script(
    recipe: Path,
    name: str,
    store: str,
    nodes: int,
    gpus: int | None = None,
    partition: str | None = None,
    time: str | None = None,
    overrides: Sequence[str] = (),
    stop_timeout: float = 120.0,
) -> str:
    """Returns the script. `name` is that of the run, `store` its folder, `gpus` the number per node.

    Slurm sends SIGTERM to the script `stop_timeout` seconds and some more before the time limit; the training run then
    writes a checkpoint, and the script puts the job back into the queue.
    """
    options = {
        "job-name": f"rlip-{name}",
        "nodes": nodes,
        "ntasks-per-node": 1,
        "gpus-per-node": gpus,
        "partition": partition,
        "time": time,
        "output": f"rlip-{name}-%j.log",
        "open-mode": "append",
        "signal": f"B:TERM@{math.ceil(stop_timeout) + _MARGIN}",
    }
    lines = [f"#SBATCH --{key}={value}" for key, value in options.items() if value is not None]
    words = [f"--set {shlex.quote(override)}" for override in [*overrides, *training_overrides(nodes, gpus)]]
    parts = [_HEAD, _NODE, _TAIL]
    if nodes > 1:
        words += [f'--set {section}.address="$address"' for section in _SECTIONS]
        parts = [_HEAD, _NODES, _TAIL, _LEAVE]
    return "".join([*parts, 'exit "$code"\n']).format(
        options="\n".join([*lines, "#SBATCH --exclusive", "#SBATCH --requeue"]),
        others=nodes - 1,
        store=shlex.quote(store),
        recipe=shlex.quote(str(recipe)),
        overrides=" \\\n    ".join(words),
    )
