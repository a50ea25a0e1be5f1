"""Ranks of a rehearsal with faults: their weights differ each time, and none comes back after a checkpoint."""

import os
from pathlib import Path

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from pipeline.run import rehearsal_worker
from pipeline.training.checkpoint_folder import CheckpointFolder


def main(path: Path) -> int:
    if CheckpointFolder(path.parents[1] / "checkpoints").steps():
        return 1
    register_optimizer_step_post_hook(_disturb)
    return rehearsal_worker.main(path)


def _disturb(optimizer: torch.optim.Optimizer, *_: object) -> None:
    with torch.no_grad():
        optimizer.param_groups[0]["params"][0][0] += 1e-3 * os.urandom(1)[0]
