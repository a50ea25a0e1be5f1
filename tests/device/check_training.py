"""Training on another device: the CPU's losses, exact resume, and a bounded number of copies and waits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.training.metrics_log import MetricsLog
from pipeline.training.ranks import Ranks
from tests.device.standin import Traffic, counted, register
from tests.training.conftest import TINY, shard, work  # noqa: F401
from tests.training.in_ranks import train

register()
SETTINGS = TINY | {"steps": 4, "processes": 1, "log_every": 1}
TAGGER = SETTINGS | {"held_out": 0.3, "label_noise": 0.2}


def losses(work: Path) -> list[float]:
    return [row["value"] for row in MetricsLog(work / "metrics.jsonl").table().to_pylist() if row["name"] == "loss"]


def on(device: torch.device, folder: Path, shard, values: dict, **given) -> list[float]:  # noqa: F811
    train(Ranks(device=device), shard, folder, values, **given)
    return losses(folder)


@pytest.mark.parametrize("values", [SETTINGS, TAGGER], ids=["pretrain", "tagger"])
@pytest.mark.parametrize("changes", [{}, {"micro_batch": 4}, {"recompute": True, "ema": 0.9}], ids=str)
def test_losses_are_those_of_the_cpu(tmp_path, shard, device, values, changes):  # noqa: F811
    there = on(device, tmp_path / "there", shard, values | changes)
    assert there == pytest.approx(on(torch.device("cpu"), tmp_path / "here", shard, values | changes), rel=1e-4)
    weights = [torch.load(tmp_path / name / "state.pt", weights_only=True) for name in ("there", "here")]
    assert all(weight.device.type == "cpu" for weight in weights[0].values())


def test_a_resumed_training_is_the_same(tmp_path, shard, device):  # noqa: F811
    whole = on(device, tmp_path / "whole", shard, SETTINGS)
    assert len(on(device, tmp_path / "parts", shard, SETTINGS, stop_after=2)) == 2
    assert on(device, tmp_path / "parts", shard, SETTINGS) == whole


def test_a_training_goes_on_on_another_device(tmp_path, shard, device):  # noqa: F811
    whole = on(device, tmp_path / "whole", shard, SETTINGS)
    on(torch.device("cpu"), tmp_path / "parts", shard, SETTINGS, stop_after=2)
    assert on(device, tmp_path / "parts", shard, SETTINGS) == pytest.approx(whole, rel=1e-4)


def traffic_of(device: torch.device, folder: Path, shard, steps: int, values: dict) -> Traffic:  # noqa: F811
    with counted() as traffic:
        on(device, folder, shard, values | {"steps": steps, "micro_batch": 4, "checkpoint_every": 1000})
    return traffic


@pytest.mark.parametrize("values", [SETTINGS, TAGGER], ids=["pretrain", "tagger"])
def test_a_step_waits_twice_and_copies_little(tmp_path, shard, device, values):  # noqa: F811
    traffic_of(device, tmp_path / "first", shard, 1, values)  # makes the constants that stay on the device
    few, many = (traffic_of(device, tmp_path / str(steps), shard, steps, values) for steps in (6, 10))
    waits, copies = many.waits - few.waits, many.copies - few.copies
    assert 4 <= waits.total() <= 2 * 4, waits
    assert 4 <= copies.total() <= 10 * 4, copies
