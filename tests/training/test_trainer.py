"""The trainer's own settings: what changes the outcome, and what must not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.training.checkpoints.folder import CheckpointFolder
from pipeline.training.config import CHECKPOINTS
from pipeline.training.metrics_log import MetricsLog
from pipeline.training.optimizer import set_rates
from pipeline.training.ranks import Ranks
from pipeline.training.settings import TaggerSettings, TrainingSettings
from tests.training.conftest import TINY
from tests.training.in_ranks import train

SETTINGS = TINY | {"steps": 4, "processes": 1, "log_every": 1}


def run(work: Path, shard, **changes) -> dict[str, list[float]]:
    torch.set_num_threads(1)
    train(Ranks(), shard, work, SETTINGS | changes)
    found: dict[str, list[float]] = {}
    for row in MetricsLog(work / "metrics.jsonl").table().to_pylist():
        found.setdefault(row["name"], []).append(row["value"])
    return found


@pytest.fixture(scope="module")
def plain(tmp_path_factory, shard) -> dict[str, list[float]]:
    return run(tmp_path_factory.mktemp("plain"), shard)


def test_recomputing_activations_changes_no_bit(work, shard, plain):
    assert run(work, shard, activation_checkpointing=True) == plain


def test_sixteen_bits_give_nearly_the_same_losses(work, shard, plain):
    rounded = run(work, shard, precision="bfloat16")
    assert rounded["loss"] != plain["loss"] and rounded["loss"] == pytest.approx(plain["loss"], rel=0.02)


def test_a_compiled_network_trains_the_same(work, shard, plain, monkeypatch):
    graphs: list[int] = []

    def backend(graph, inputs):
        graphs.append(len(graph.graph.nodes))
        return graph.forward

    compile_ = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compile_(self, backend=backend))
    assert run(work, shard, compile=True)["loss"] == pytest.approx(plain["loss"], abs=1e-4)
    assert sum(graphs) > 100


def test_steps_of_micro_batches_differ_from_one_of_all(work, shard, plain):
    assert run(work, shard, micro_batch=4)["loss"] != plain["loss"]


def test_rates_follow_the_batch_and_the_schedule():
    settings = TrainingSettings(batch=64, lr_for_batch=32, lr=1e-4, lr_backbone=1e-5, lr_text=2e-5, schedule="step")
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))]} for _ in range(3)]
    optimizer = torch.optim.AdamW(groups)
    rates = set_rates(optimizer, settings, 0, 100)
    assert rates == pytest.approx({"lr": 1.41e-4, "lr_backbone": 1.41e-5, "lr_text": 2.83e-5}, rel=1e-2)
    assert [group["lr"] for group in optimizer.param_groups] == list(rates.values())
    assert set_rates(optimizer, settings, 75, 100)["lr"] == pytest.approx(1.41e-5, rel=1e-2)


def test_a_divergence_is_told_and_its_last_good_checkpoint_stays(work, shard):
    changes = {"steps": 30, "checkpoint_every": 1, "keep_checkpoints": 1, "alarm_window": 6, "alarm_factor": 1.01}
    run(work, shard, **changes, lr=3e-2, lr_backbone=3e-2, lr_text=3e-2, max_grad_norm=100.0, warmup=20)
    notes = (work / "notes.txt").read_text()
    assert "the training run seems to diverge at step" in notes
    assert len(CheckpointFolder(work / CHECKPOINTS).steps()) == 2


def test_the_authors_way_is_chosen_by_one_setting():
    official = TrainingSettings(official=True)
    assert official.network.official_compat and not official.self_pairs and official.predicate_form == "surface"
    assert official.shortest[0] == 480 and official.crop == 0.5 and official.bucket == 1
    assert TrainingSettings(official=True, bucket=16).bucket == 16
    assert TaggerSettings(official=True).network.official_compat


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": 10, "micro_batch": 4}, "10 images aren't a multiple of micro_batch = 4"),
        ({"batch": 8, "micro_batch": 8, "processes": 2}, "in micro-batches of 8 can't be shared by processes = 2"),
        ({"evaluate_every": 5, "parallel": "fsdp"}, "each process evaluates with the whole network"),
    ],
)
def test_settings_that_do_not_fit_together_are_told(changes, message):
    with pytest.raises(ValueError, match=message):
        TrainingSettings(**changes)
