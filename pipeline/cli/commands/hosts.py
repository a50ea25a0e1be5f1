"""Commands for training runs on several nodes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.commands.options import Overrides, RecipePath
from pipeline.cli.errors import errors_reported


def join(
    address: Annotated[
        str, typer.Argument(metavar="ADDRESS", help="HOST:PORT of the coordinator, as in its setting `address`.")
    ],
    folder: Annotated[Path, typer.Argument(metavar="STORE", help="The coordinator's store, which all nodes share.")],
    stay: Annotated[
        bool, typer.Option("--stay", help="Wait for the next training when one has ended, until asked to end.")
    ] = False,
    ray: Annotated[
        int | None, typer.Option(min=1, help="Lend this many nodes of the Ray cluster of this machine instead of it.")
    ] = None,
) -> None:
    """Lend this machine to a training run on several nodes: run processes for the coordinator, which runs the recipe."""
    from pipeline.cli.cluster import join_training

    with errors_reported():
        code = join_training(address, folder, stay, ray)
    raise typer.Exit(code)


def slurm(
    recipe: RecipePath,
    nodes: Annotated[int, typer.Option(min=1, max=1024, help="Number of nodes.")],
    gpus: Annotated[
        int | None, typer.Option("--gpus-per-node", min=1, help="GPUs, and so training processes, of each node.")
    ] = None,
    partition: Annotated[str | None, typer.Option(help="Partition of the cluster.")] = None,
    time: Annotated[str | None, typer.Option(help="Time limit as Slurm writes it, e.g. 12:00:00.")] = None,
    out: Annotated[Path | None, typer.Option(help="File to write; unset: the script is printed.")] = None,
    overrides: Overrides = None,
) -> None:
    """Write the batch script that runs a recipe on one or several nodes of a Slurm cluster, for `sbatch`."""
    from pipeline.cli.cluster import write_slurm_script

    with errors_reported():
        write_slurm_script(recipe, nodes, gpus, partition, time, out, overrides or [])
