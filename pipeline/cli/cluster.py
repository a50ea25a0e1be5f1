"""Implements the `rlip` commands for training runs on several machines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.run.recipe_files import load_recipe
from pipeline.training.launch.agent import join
from pipeline.training.launch.ray_nodes import join_with_ray
from pipeline.training.launch.slurm import sbatch_script, training_overrides
from storage.errors import FatalError


def join_training(address: str, folder: Path, stay: bool, ray_nodes: int | None) -> int:
    """Lend this machine, or nodes of its Ray cluster, to the training of the coordinator at `address`. Returns the exit code."""
    if not folder.is_dir():
        raise FatalError(f"{folder}: no such folder; name the store of the coordinator, which all nodes must share")
    folder = folder.absolute()
    return join(address, folder, stay) if ray_nodes is None else join_with_ray(address, folder, ray_nodes, stay)


def write_slurm_script(
    path: Path,
    nodes: int,
    gpus: int | None,
    partition: str | None,
    time: str | None,
    out: Path | None,
    overrides: Sequence[str],
) -> None:
    """Print the batch script for a recipe, or write it to `out`. Raises `FatalError` when the recipe can't run on `nodes`."""
    address = [f"{section}.address=node:29500" for section in ("train_tagger", "pretrain.settings") if nodes > 1]
    recipe = load_recipe(path, [*overrides, *address, *training_overrides(nodes, gpus)])
    if nodes > 1 and "://" in recipe.store:
        raise FatalError(f"store = {recipe.store}: several nodes need a store in a folder that all of them share")
    stop_timeout = max(recipe.train_tagger.stop_timeout, recipe.pretrain.settings.stop_timeout)
    script = sbatch_script(path, recipe.name, recipe.store, nodes, gpus, partition, time, overrides, stop_timeout)
    if out is None:
        print(script, end="")
    else:
        out.write_text(script)
