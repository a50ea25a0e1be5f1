"""Training on another device: the CPU's losses, exact resume, and a bounded number of copies and waits."""

import copy
from pathlib import Path

import pytest
import torch

from pipeline.training import throughput
from pipeline.training.checkpoint_folder import CheckpointFolder
from pipeline.training.config import CHECKPOINTS
from pipeline.training.metrics_log import MetricsLog
from pipeline.training.ranks import Ranks
from tests.device.standin import Event, Stream, Traffic, counted, register
from tests.training.conftest import TINY
from tests.training.in_ranks import train

register()
SETTINGS = TINY | {"steps": 2, "micro_batch": 4, "processes": 1, "log_every": 1}
TAGGER = SETTINGS | {"held_out": 0.3, "label_noise": 0.2}


def losses(folder: Path) -> list[float]:
    return [row["value"] for row in MetricsLog(folder / "metrics.jsonl").table().to_pylist() if row["name"] == "loss"]


def on(device: torch.device, folder: Path, shard, values: dict, **given) -> list[float]:
    train(Ranks(device=device), shard, folder, values, **given)
    return losses(folder)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, shard, device) -> list[float]:
    """The losses of a training run that runs on the device to its end."""
    return on(device, tmp_path_factory.mktemp("undisturbed"), shard, SETTINGS)


@pytest.mark.parametrize(
    "values",
    [SETTINGS | {"activation_checkpointing": True, "ema": 0.9}, TAGGER | {"micro_batch": 2}],
    ids=["all", "tagger"],
)
def test_losses_are_those_of_the_cpu(tmp_path, shard, device, values):
    there, here = (on(where, tmp_path / where.type, shard, values) for where in (device, torch.device("cpu")))
    assert there[0] == pytest.approx(here[0], rel=1e-5) and there == pytest.approx(here, rel=1e-3)
    weights = torch.load(tmp_path / device.type / "state.pt", weights_only=True)
    assert all(weight.device.type == "cpu" for weight in weights.values())


def test_a_resumed_training_is_the_same(tmp_path, shard, device, undisturbed):
    assert len(on(device, tmp_path / "parts", shard, SETTINGS, stop_after=1)) == 1
    assert on(device, tmp_path / "parts", shard, SETTINGS) == undisturbed


def test_a_training_goes_on_on_another_device_with_the_same_losses(tmp_path, shard, device, undisturbed):
    here = on(torch.device("cpu"), tmp_path / "parts", shard, SETTINGS, stop_after=1)
    assert len(here) == 1 and here[0] == pytest.approx(undisturbed[0], rel=1e-5)
    assert on(device, tmp_path / "parts", shard, SETTINGS) == pytest.approx(undisturbed, rel=1e-3)


@pytest.mark.parametrize("values", [SETTINGS, TAGGER], ids=["pretrain", "tagger"])
def test_a_step_waits_twice_and_copies_little(tmp_path, shard, device, values, monkeypatch):
    # The first steps also count their operations, in separate passes, and make the constants that stay on the device.
    monkeypatch.setattr(throughput, "COUNTED", int(values is SETTINGS))
    first = 2
    lasting = values | {"steps": first + 2, "checkpoint_every": 1000}
    seen: list[Traffic] = []
    with counted() as traffic:
        on(device, tmp_path, shard, lasting, each_step=lambda: seen.append(copy.deepcopy(traffic)))
    before, after = seen[first - 1], seen[first + 1]
    waits, copies = after.waits - before.waits, after.copies - before.copies
    assert 2 <= waits.total() <= 2 * 2, waits
    assert 2 <= copies.total() <= 10 * 2, copies


def test_a_step_goes_on_beside_the_copy_of_a_checkpoint_which_its_update_waits_for(
    tmp_path, shard, device, monkeypatch
):
    monkeypatch.setattr(Stream, "patience", 20.0)
    pending: list[int] = []

    def passed() -> None:
        """The passes of a step are over, and its update is to come."""
        pending.append(sum(len(stream.copies) for stream in Event.streams))
        if len(pending) == 2:
            Stream.patience = 0.0  # after the last step, nobody else needs the copies

    values = SETTINGS | {"checkpoint_every": 1, "write_aside": 0.0}
    with counted() as traffic:
        on(device, tmp_path / "two", shard, values, stop_after=2, each_step=passed)
    assert pending[0] == 0 < pending[1]
    assert not [line for line in traffic.waits if "checkpointer" in line]
    on(device, tmp_path / "one", shard, values, stop_after=1)
    two, one = (
        next(CheckpointFolder(tmp_path / name / CHECKPOINTS).path(1).glob("*.safetensors")) for name in ("two", "one")
    )
    assert two.read_bytes() == one.read_bytes()
