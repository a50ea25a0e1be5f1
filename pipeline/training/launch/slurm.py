"""Writes the batch script that runs a recipe on one or several nodes of a Slurm cluster."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Template

_SCRIPT = Path(__file__).with_name("sbatch.sh.jinja")
_MARGIN = 30
"""Seconds before the time limit, besides the training run's `stop_timeout`, at which Slurm asks it to end."""


def training_overrides(sections: Sequence[str], nodes: int, gpus: int | None) -> list[str]:
    """Returns the settings, as for `--set`, that let the training runs of these sections use so many nodes and GPUs."""
    processes = [f"{section}.processes={gpus}" for section in sections] if gpus else []
    return [*processes, *(f"{section}.nodes={nodes}" for section in sections)]


def sbatch_script(
    recipe: Path,
    name: str,
    store: str,
    sections: Sequence[str],
    nodes: int,
    gpus: int | None = None,
    partition: str | None = None,
    time: str | None = None,
    overrides: Sequence[str] = (),
    stop_timeout: float = 120.0,
) -> str:
    """Returns the script. `name` is that of the run, `store` its folder, `gpus` the number per node.
    `sections`: those of the recipe that describe its training runs.

    Slurm sends SIGUSR1 to the script `stop_timeout` seconds and some more before the time limit; the training run then
    writes a checkpoint, and the script puts the job back into the queue. After SIGTERM, which a plain `scancel` sends,
    the job is not requeued.
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
        "signal": f"B:USR1@{math.ceil(stop_timeout) + _MARGIN}",
    }
    words = [f"--set {shlex.quote(override)}" for override in [*overrides, *training_overrides(sections, nodes, gpus)]]
    if nodes > 1:
        words += [f'--set {section}.address="$address"' for section in sections]
    template = Template(_SCRIPT.read_text(), trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    script: str = template.render(
        options=[(name, value) for name, value in options.items() if value is not None],
        others=nodes - 1,
        store=shlex.quote(store),
        recipe=shlex.quote(str(recipe)),
        settings=" \\\n    ".join(words),
    )
    return script
