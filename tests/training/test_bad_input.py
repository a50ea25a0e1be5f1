"""What goes wrong in training runs as users start them, with loader processes: each is told with what to do, nothing is lost."""

from __future__ import annotations

import dataclasses
import resource
import shutil
from pathlib import Path

import pytest
import torch
from warm_process import limited

from models import weights
from models.config import NetworkConfig
from pipeline.training.checkpoints.folder import CheckpointFolder
from pipeline.training.config import CHECKPOINTS, MODEL, Summary, TrainConfig
from pipeline.training.launch.launcher import launch
from pipeline.training.run import prepare
from pipeline.training.settings import TrainingSettings
from storage.errors import FatalError
from tests.training.conftest import TINY, sample, write_shard

SETTINGS = TINY | {"steps": 4, "processes": 1, "num_workers": 1, "checkpoint_every": 2}


def config(work: Path, *shards, **changes) -> TrainConfig:
    made = TrainConfig(kind="pretrain", settings=TrainingSettings(**(SETTINGS | changes)), work=work, shards=shards)
    prepare(made)
    return made


def run(work: Path, *shards, **changes) -> tuple[Summary, str]:
    """Trains as a stage does. Returns the summary and all notes."""
    notes: list[str] = []
    summary = launch(config(work, *shards, **changes), lambda done, total, note="": notes.append(note))
    return summary, "\n".join(notes) + (work / "train.log").read_text()


def test_a_mix_without_relations_is_told_before_any_process_starts(work, tmp_path):
    shard = write_shard(tmp_path, [dataclasses.replace(sample(i), relations=()) for i in range(1, 5)])
    with pytest.raises(FatalError, match=r"nothing to learn predicates from: .* loss\.predicates = 0"):
        config(work, shard)
    shutil.rmtree(work)
    work.mkdir()
    assert run(work, shard, loss={"predicates": 0.0})[0].steps == 4


def test_a_shard_that_is_gone_is_told(work, tmp_path):
    shard = write_shard(tmp_path, [sample(i) for i in range(1, 5)])
    made = config(work, shard)
    Path(shard.tar).unlink()
    with pytest.raises(FatalError, match="there is no such file; restore the tar"):
        launch(made, lambda done, total, note="": None)


def test_a_damaged_checkpoint_costs_its_steps_and_a_foreign_one_is_refused(work, shard):
    run(work, shard, checkpoint_every=1)
    (work / MODEL).unlink()
    newest = CheckpointFolder(work / CHECKPOINTS).path(4)
    (file,) = newest.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-1])
    summary, told = run(work, shard)
    assert summary.resumed_from == 3
    assert "step-00000004 is damaged and ignored" in told
    with pytest.raises(FatalError, match="it holds another network than the settings describe"):
        run(work, shard, network=TINY["network"] | {"feedforward": 64})


def test_a_full_disk_is_told_and_the_last_checkpoint_stays(work, shard):
    made = config(work, shard, steps=2)
    launch(made, lambda done, total, note="": None)
    made = config(work, shard, steps=4)
    said = pytest.raises(FatalError, match=r"the trained weights could not be written .*File too large")
    with limited(resource.RLIMIT_FSIZE, 400_000), said:
        launch(made, lambda done, total, note="": None)
    assert CheckpointFolder(work / CHECKPOINTS).steps() == [2]
    assert run(work, shard, steps=4)[0].resumed_from == 2


def test_a_training_that_diverges_names_the_step_and_keeps_its_checkpoint(work, shard):
    run(work, shard, steps=2)
    with pytest.raises(FatalError, match=r"diverged at step \d+ .*the newest checkpoint is of step 2; lower lr = "):
        run(
            work, shard, steps=6, lr=1e30, lr_backbone=1e30, lr_text=1e30, warmup=0, max_grad_norm=1e30, schedule="step"
        )
    assert 2 in CheckpointFolder(work / CHECKPOINTS).steps()


def test_a_first_step_that_fails_blames_what_it_started_from_and_no_rate(work, shard, tmp_path):
    network = weights.build(NetworkConfig.from_dict(TINY["network"]), None)
    with torch.no_grad():
        network.projection_text.weight.mul_(1e38)
    weights.save(network, tmp_path / "huge.safetensors")
    with pytest.raises(FatalError, match=r"step 1 failed before it changed any weight .* pretrained = .*huge") as told:
        run(work, shard, pretrained=tmp_path / "huge.safetensors")
    assert "lr" not in str(told.value)


def test_too_little_memory_is_told_with_what_takes_less(work, shard):
    said = pytest.raises(
        FatalError, match=r"out of memory on cpu at step 1, with 2 images of \d+x\d+ pixels .*micro_batch = 2"
    )
    with limited(resource.RLIMIT_DATA, 3 * 2**30), said:
        run(work, shard, num_workers=0, image_size=6400)
