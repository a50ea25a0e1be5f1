"""Checkpoints: a training goes on from the last sound one with the same bits, whatever became of the others."""

import json
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from pipeline.training.checkpoint_folder import RECORD, CheckpointFolder
from pipeline.training.checkpointer import file_image
from pipeline.training.config import CHECKPOINTS, RESUMES_FROM
from pipeline.training.ranks import Ranks
from pipeline.training.settings import CALIBRATION
from pipeline.training.tagger_evaluation import HeldOut
from storage.errors import FatalError
from tests.training.conftest import TINY, metrics
from tests.training.in_ranks import train

STEPS = 6
SETTINGS = TINY | {"steps": STEPS, "processes": 1, "checkpoint_every": 2, "log_every": 1}


def run(work: Path, shard, stop_after: int | None = None, **changes) -> str:
    """Trains in this process. Returns what it told."""
    torch.set_num_threads(1)
    train(Ranks(), shard, work, SETTINGS | changes, stop_after)
    return (work / "notes.txt").read_text()


def outcome(work: Path) -> tuple[dict[str, bytes], list[dict]]:
    weights = torch.load(work / "state.pt")
    return {name: value.numpy().tobytes() for name, value in weights.items()}, metrics(work)


def checkpoints(work: Path) -> CheckpointFolder:
    return CheckpointFolder(work / CHECKPOINTS)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, shard) -> tuple[dict[str, bytes], list[dict]]:
    work = tmp_path_factory.mktemp("undisturbed")
    run(work, shard)
    return outcome(work)


@pytest.fixture(scope="module")
def third_step(tmp_path_factory, shard) -> Path:
    """The work folder of a training that was stopped after its third step, with checkpoints of steps 2 and 3."""
    folder = tmp_path_factory.mktemp("third step")
    run(folder, shard, stop_after=3)
    assert checkpoints(folder).steps() == [3, 2]
    return folder


@pytest.fixture
def stopped(third_step, work) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(third_step, work, dirs_exist_ok=True))


def damage(folder: Path, how: str) -> None:
    (shard,) = folder.glob("*.safetensors")
    if how == "a byte":
        data = bytearray(shard.read_bytes())
        data[len(data) // 2] ^= 1
        shard.write_bytes(data)
    elif how == "its end":
        os.truncate(shard, shard.stat().st_size - 1)
    elif how == "a file":
        shard.unlink()
    else:
        (folder / RECORD).write_text("{")


@pytest.mark.parametrize(("how", "told"), [
    ("a byte", "has changed since it was written"), ("its end", r"has \d+ bytes instead of \d+"),
    ("a file", "is missing"), ("the record", r"checkpoint\.json can't be read"),
])  # fmt: skip
def test_any_damage_is_noticed(stopped, how, told):
    damage(checkpoints(stopped).path(3), how)
    with pytest.raises(ValueError, match=told):
        checkpoints(stopped).record(3)


def test_without_the_newest_checkpoint_a_training_goes_on_from_the_one_before(stopped, shard, undisturbed):
    damage(checkpoints(stopped).path(3), "a byte")
    notes = run(stopped, shard)
    assert "checkpoint step-00000003 is damaged and ignored: " in notes
    assert "continuing from the checkpoint of step 2" in notes
    assert outcome(stopped) == undisturbed
    assert checkpoints(stopped).steps() == [6, 4] and (stopped / CHECKPOINTS / "damaged-step-00000003").is_dir()


def test_without_any_sound_checkpoint_it_begins_again_and_says_so(stopped, shard, undisturbed):
    for step in checkpoints(stopped).steps():
        damage(checkpoints(stopped).path(step), "a byte")
    assert "every checkpoint is damaged: training from the beginning" in run(stopped, shard)
    assert outcome(stopped) == undisturbed


def test_what_an_interrupted_process_was_writing_is_no_checkpoint(stopped, shard, undisturbed):
    aside = checkpoints(stopped).aside(5)
    aside.mkdir()
    (aside / "shard-00001-of-00001.safetensors").write_bytes(b"torn")
    assert "continuing from the checkpoint of step 3" in run(stopped, shard)
    assert not aside.exists() and outcome(stopped) == undisturbed


@pytest.mark.parametrize("changes", [{"feedforward": 64}, {"encoder_layers": 2}])
def test_a_checkpoint_of_another_network_is_refused(stopped, shard, changes):
    with pytest.raises(FatalError, match=r"step-00000003: it belongs to a different network .*remove it to train"):
        run(stopped, shard, network=TINY["network"] | changes)
    assert checkpoints(stopped).steps() == [3, 2]


def test_a_checkpoint_of_another_version_is_refused(stopped, shard):
    record = checkpoints(stopped).path(3) / RECORD
    record.write_text(json.dumps(json.loads(record.read_text()) | {"format": 99}))
    with pytest.raises(FatalError, match="has checkpoint format 99, but this version reads"):
        run(stopped, shard)


def test_damaged_checkpoints_push_no_sound_one_out(work, shard):
    run(work, shard, checkpoint_every=3, milestone_every=2)
    assert checkpoints(work).steps() == [6, 4, 2]
    for step in (6, 4):
        damage(checkpoints(work).path(step), "a byte")
    run(work, shard, checkpoint_every=1, keep_checkpoints=1, stop_after=5)
    assert checkpoints(work).steps() == [5]


def test_another_machine_learns_what_it_needs_to_continue(third_step, shard, tmp_path, undisturbed):
    files = json.loads((third_step / RESUMES_FROM).read_text())["files"]
    other = tmp_path / "other"
    for name in files:
        (other / name).parent.mkdir(parents=True, exist_ok=True)
        (other / name).write_bytes((third_step / name).read_bytes())
    assert "continuing from the checkpoint of step 3" in run(other, shard)
    assert outcome(other) == undisturbed


def test_a_checkpoint_written_while_training_goes_on_is_the_same(work, shard, undisturbed):
    run(work, shard, write_aside=0.0, stop_after=3)
    assert checkpoints(work).record(3)["about"]["step"] == 3
    run(work, shard, write_aside=0.0)
    assert outcome(work) == undisturbed


@pytest.fixture
def fill_the_disk(monkeypatch) -> Iterator[Callable[[], None]]:
    """Call it, and no file of this process can grow any more, once the state is copied in memory."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limited(tensors, memory):
        image = file_image(tensors, memory)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        return image

    yield lambda: monkeypatch.setattr("pipeline.training.checkpointer.file_image", limited)
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("write_aside", [0.0, 64.0])
def test_a_full_disk_costs_only_checkpoints(work, shard, undisturbed, write_aside, fill_the_disk, monkeypatch):
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    run(work, shard, stop_after=2, write_aside=write_aside)
    fill_the_disk()
    notes = run(work, shard, stop_after=5, write_aside=write_aside)
    assert "the checkpoint of step 4 could not be written (File too large" in notes
    assert "the last one is of step 2" in notes
    assert checkpoints(work).steps() == [2]
    monkeypatch.undo()
    resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    run(work, shard, write_aside=write_aside)
    assert outcome(work) == undisturbed


def test_a_last_measurement_that_fails_costs_no_step(tmp_path, work, shard, monkeypatch):
    changes = {"held_out": 0.5, "steps": 3}
    run(tmp_path / "whole", shard, **changes)
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(HeldOut, "measure", lambda *_: 1 / 0)
        run(work, shard, **changes)
    assert "continuing from the checkpoint of step 3" in run(work, shard, **changes)
    assert (work / CALIBRATION).read_bytes() == (tmp_path / "whole" / CALIBRATION).read_bytes()


def test_steps_keep_their_bits_across_stops_epochs_and_loaders(tmp_path, shard):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run(whole, shard, steps=8)
    for stop_after, num_workers in ((2, 0), (4, 1), (5, 0), (None, 1)):
        run(parts, shard, steps=8, num_workers=num_workers, stop_after=stop_after)
    assert [row["step"] for row in metrics(whole) if row["name"] == "loss"] == list(range(1, 9))
    assert outcome(parts) == outcome(whole)
