"""`rlip cluster`: joins training runs on several nodes, writes Slurm scripts, and serves Prefect's pages.

Imports of torch are local to their functions, so that `--help` responds at once.
"""

from __future__ import annotations

import math
import shlex
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated

import typer
from jinja2 import Template

from pipeline.cli.options import STORE, Overrides, RecipePath, StorePath
from pipeline.run.recipe_files import load_recipe, read_recipe
from storage.errors import FatalError

commands = typer.Typer(no_args_is_help=True)
_MARGIN = 30
"""Seconds before the time limit, besides the training run's `stop_timeout`, at which Slurm asks it to end."""


@commands.command("join")
def join_training(
    address: Annotated[
        str, typer.Argument(metavar="ADDRESS", help="HOST:PORT of the coordinator, as in its setting `address`.")
    ],
    folder: Annotated[Path, typer.Argument(metavar="STORE", help="The coordinator's store, which all nodes share.")],
    stay: Annotated[
        bool, typer.Option("--stay", help="After a training run, wait for the next one until asked to stop.")
    ] = False,
    ray: Annotated[
        int | None, typer.Option(min=1, help="Join this many nodes of the machine's Ray cluster instead.")
    ] = None,
) -> None:
    """Join a multi-node training run: run processes for the coordinator, which runs the recipe."""
    from pipeline.training.launch.agent import join
    from pipeline.training.launch.ray_nodes import join_with_ray

    if not folder.is_dir():
        raise FatalError(f"{folder}: no such folder; name the coordinator's store, which all nodes must share")
    folder = folder.absolute()
    raise typer.Exit(join(address, folder, stay) if ray is None else join_with_ray(address, folder, ray, stay))


@commands.command("slurm")
def write_slurm_script(
    path: RecipePath,
    nodes: Annotated[int, typer.Option(min=1, max=1024, help="Number of nodes.")],
    gpus: Annotated[
        int | None, typer.Option("--gpus-per-node", min=1, help="GPUs, and thus training processes, per node.")
    ] = None,
    partition: Annotated[str | None, typer.Option(help="Partition of the cluster.")] = None,
    time: Annotated[str | None, typer.Option(help="Time limit in Slurm's format, e.g. 12:00:00.")] = None,
    out: Annotated[Path | None, typer.Option(help="File to write; unset: print the script.")] = None,
    overrides: Overrides = None,
) -> None:
    """Write a batch script for `sbatch` that runs a recipe on one or more nodes of a Slurm cluster."""
    settings = overrides or []
    # A setting of pre-training would switch it on in a recipe that has none.
    pretrain = read_recipe(path, settings).values.get("pretrain", {"variants": []})
    has_none = isinstance(pretrain, dict) and pretrain.get("variants") == []
    sections = ["train_tagger"] if has_none else ["train_tagger", "pretrain.settings"]
    # A placeholder for the coordinator's address, which several nodes need and only the running script knows.
    address = [f"{section}.address=node:29500" for section in sections if nodes > 1]
    wanted = [
        *settings,
        *(f"{section}.processes={gpus}" for section in sections if gpus),
        *(f"{section}.nodes={nodes}" for section in sections),
    ]
    recipe = load_recipe(path, [*wanted, *address])
    if nodes > 1 and "://" in recipe.store:
        raise FatalError(f"store = {recipe.store}: several nodes need a store in a folder that they all share")
    stop_timeout = max(recipe.train_tagger.stop_timeout, recipe.pretrain.settings.stop_timeout)
    options = {
        "job-name": f"rlip-{recipe.name}",
        "nodes": nodes,
        "ntasks-per-node": 1,
        "gpus-per-node": gpus,
        "partition": partition,
        "time": time,
        "output": f"rlip-{recipe.name}-%j.log",
        "open-mode": "append",
        # The training run then writes a checkpoint, and the script puts the job back into the queue. After SIGTERM,
        # which a plain `scancel` sends, the job is not requeued.
        "signal": f"B:USR1@{math.ceil(stop_timeout) + _MARGIN}",
    }
    words = [f"--set {shlex.quote(override)}" for override in wanted]
    if nodes > 1:
        words += [f'--set {section}.address="$address"' for section in sections]
    text = Path(__file__).with_name("sbatch.sh.jinja").read_text()
    script = Template(text, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True).render(
        options=[(name, value) for name, value in options.items() if value is not None],
        others=nodes - 1,
        store=shlex.quote(recipe.store),
        recipe=shlex.quote(str(path)),
        settings=" \\\n    ".join(words),
    )
    if out is None:
        print(script, end="")
    else:
        out.write_text(script)


@commands.command("server")
def serve_prefect(
    store: StorePath = STORE,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: any free one.")] = 0,
) -> None:
    """Serve Prefect's pages for the runs recorded next to a store, on this machine only."""
    # Found by entry point, so that the pipeline does not depend on Prefect.
    (entry,) = entry_points(group="rlip.servers", name="prefect")
    entry.load()(store, port)
