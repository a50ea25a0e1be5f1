"""The trainer and its parts: what changes the outcome and what must not, where it starts from, and what it logs."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._dynamo import config as dynamo_config
from torch._dynamo.exc import FailOnRecompileLimitHit

from pipeline.training import parallel, throughput
from pipeline.training.checkpoint_folder import CheckpointFolder
from pipeline.training.config import CHECKPOINTS
from pipeline.training.metrics_log import MetricsLog
from pipeline.training.optimizer import gradient_norm, make_optimizer, set_rates, update
from pipeline.training.ranks import Ranks
from pipeline.training.settings import TrainingSettings
from pipeline.training.tagger_evaluation import HeldOut
from pipeline.training.worker import be_deterministic, set_precision
from storage.errors import FatalError
from tests.training.conftest import TINY, metrics
from tests.training.in_ranks import train

SETTINGS = TINY | {"steps": 4, "processes": 1, "log_every": 1}


def run(work: Path, shard, stop_after: int | None = None, **changes) -> dict[str, list[float]]:
    torch.set_num_threads(1)
    train(Ranks(), shard, work, SETTINGS | changes, stop_after)
    found: dict[str, list[float]] = {}
    for row in metrics(work):
        found.setdefault(row["name"], []).append(row["value"])
    return found


@pytest.fixture(scope="module")
def plain(tmp_path_factory, shard) -> dict[str, list[float]]:
    return run(tmp_path_factory.mktemp("plain"), shard)


def test_recomputing_activations_changes_no_bit(work, shard, plain):
    assert run(work, shard, activation_checkpointing=True) == plain


def test_what_is_frozen_counts_in_no_gradient_norm(work, shard, plain):
    assert run(work, shard, steps=1, lr_text=0)["gradient_norm"] < plain["gradient_norm"][:1]


def test_counting_operations_changes_no_bit(work, shard, plain, monkeypatch):
    monkeypatch.setattr(throughput, "COUNTED", 1)
    assert run(work, shard) == plain


def test_sixteen_bits_give_nearly_the_same_losses(work, shard, plain):
    rounded = run(work, shard, precision="bfloat16")
    assert rounded["loss"] != plain["loss"] and rounded["loss"] == pytest.approx(plain["loss"], rel=0.02)


def test_a_layer_that_needs_ever_more_graphs_stops_the_run(work, shard, monkeypatch):
    monkeypatch.setattr(parallel, "GRAPHS", 1)
    monkeypatch.setattr(parallel.compile_layers, "__defaults__", ("eager",))
    message = r"ever more graphs of a layer .*; set compile = false and run again"
    with dynamo_config.patch(recompile_limit=1), pytest.raises(FatalError, match=message):
        run(work, shard, compile=True)


def test_it_stops_the_run_also_where_the_network_is_measured(work, shard, monkeypatch):
    def measure(*_) -> None:
        raise FailOnRecompileLimitHit("recompile_limit reached")

    monkeypatch.setattr(HeldOut, "measure", measure)
    with pytest.raises(FatalError, match="ever more graphs of a layer"):
        run(work, shard, held_out=0.5, check_every=1)


@pytest.mark.parametrize("changes", [{"seed": 1}, {"micro_batch": 4}])
def test_the_seed_and_the_micro_batches_of_a_step_decide_the_losses(work, shard, plain, changes):
    assert run(work, shard, **changes)["loss"] != plain["loss"]


def test_rates_follow_the_batch_and_the_schedule():
    settings = TrainingSettings(batch=64, lr_for_batch=32, lr=1e-4, lr_backbone=1e-5, lr_text=2e-5, schedule="step")
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))]} for _ in range(3)]
    optimizer = torch.optim.AdamW(groups)
    rates = set_rates(optimizer, settings, 0, 100)
    assert rates == pytest.approx({"lr": 1.41e-4, "lr_backbone": 1.41e-5, "lr_text": 2.83e-5}, rel=1e-2)
    assert [group["lr"] for group in optimizer.param_groups] == list(rates.values())
    assert set_rates(optimizer, settings, 75, 100)["lr"] == pytest.approx(1.41e-5, rel=1e-2)


def test_a_divergence_is_reported_and_its_last_good_checkpoint_stays(work, shard):
    changes = {"steps": 12, "checkpoint_every": 1, "keep_checkpoints": 1, "alarm_window": 6, "alarm_factor": 1.01}
    run(work, shard, **changes, lr=3e-2, lr_backbone=3e-2, lr_text=3e-2, max_grad_norm=100.0, warmup=8)
    notes = (work / "notes.txt").read_text()
    assert "the training run seems to diverge at step" in notes
    assert len(CheckpointFolder(work / CHECKPOINTS).steps()) == 2


def test_settings_that_a_short_run_can_not_fulfil_are_reported(work, shard):
    run(work, shard, steps=2, warmup=20, ema=0.9)
    notes = (work / "notes.txt").read_text()
    assert "warmup = 20 steps are more than the 2 of this run" in notes
    assert "initial weights will make up 81% of the result" in notes


@pytest.mark.parametrize("largest", [0.1, 1e3])
def test_steps_are_those_with_a_clipped_gradient(largest):
    torch.manual_seed(0)
    ours = nn.ModuleDict({"backbone": nn.Linear(5, 7), "text_encoder": nn.Linear(7, 3), "head": nn.Linear(3, 2)})
    theirs = copy.deepcopy(ours)
    optimizers = [make_optimizer(network, TrainingSettings(lr=1e-2)) for network in (ours, theirs)]
    for step in range(3):
        for network in (ours, theirs):
            network.zero_grad()
            draws = torch.Generator().manual_seed(step)
            x = torch.randn(6, 5, generator=draws)
            # Large gradients in one step, small ones in the next: the scale of one must not stay for the other.
            for layer in network.values():
                x = layer(x)
            (x.square().sum() * 10.0 ** (1 - 2 * (step % 2))).backward()
        parameters = list(ours.parameters())
        update(optimizers[0], gradient_norm(parameters).item(), largest)
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), largest)
        optimizers[1].step()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


@pytest.fixture
def as_before():
    before, cudnn = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    yield
    torch.set_float32_matmul_precision(before)
    torch.backends.cudnn.allow_tf32 = cudnn


@pytest.mark.parametrize(
    ("precision", "tf32", "near"),
    [("float32", False, 1e-5), ("tf32", True, 1e-5), ("medium", True, 2e-2), ("bfloat16", True, 1e-5)],
)
def test_products_on_a_cpu_and_on_a_gpu(as_before, precision, tf32, near):
    set_precision(precision)
    assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == (tf32, tf32)
    first, second = torch.randn(2, 256, 256, generator=torch.Generator().manual_seed(0))
    apart = (first @ second - (first.double() @ second.double()).float()).abs().max() / 16
    assert apart < near
    # Whether a CPU then rounds to bfloat16 is left to its library, which does not on one that lacks matrix units.
    assert (torch.get_float32_matmul_precision() == "medium") == (precision == "medium")


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_equal_bits_cost_fused_attention_on_a_gpu_only(device):
    kernels = ("flash_sdp", "mem_efficient_sdp", "cudnn_sdp")
    try:
        be_deterministic(torch.device(device))
        assert torch.is_deterministic_algorithms_warn_only_enabled() and torch.backends.cuda.math_sdp_enabled()
        assert {getattr(torch.backends.cuda, f"{kernel}_enabled")() for kernel in kernels} == {device == "cpu"}
    finally:
        torch.use_deterministic_algorithms(False)
        torch.utils.deterministic.fill_uninitialized_memory = True
        for kernel in kernels:
            getattr(torch.backends.cuda, f"enable_{kernel}")(True)


def test_rewinding_forgets_later_steps_and_a_torn_line_and_what_is_measured_again_counts_once(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.write(2, {"loss": 3.0})
    log.write(12, {"loss": 1.0, "held_out_map": 0.5})
    log.write(14, {"loss": 0.5})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 15, "na')
    log.rewind(12)
    log.write(12, {"held_out_map": 0.5})
    expected = [(2, "loss", 3.0), (12, "held_out_map", 0.5), (12, "loss", 1.0)]
    assert [tuple(row.values()) for row in log.table().to_pylist()] == expected


def test_what_a_full_disk_did_not_take_is_written_later(tmp_path):
    log = MetricsLog(tmp_path / "later" / "metrics.jsonl")
    log.write(1, {"loss": 3.0})
    with pytest.raises(OSError, match="No such file"):
        log.sync()
    (tmp_path / "later").mkdir()
    (tmp_path / "later" / "metrics.jsonl").write_text('{"step": 1, "na')
    log.write(2, {"loss": 2.0})
    assert [(row["step"], row["value"]) for row in log.table().to_pylist()] == [(1, 3.0), (2, 2.0)]
