"""A training run starts from a detector that the authors of RLIPv2 converted."""

from __future__ import annotations

from pathlib import Path

import torch

from models import weights
from models.config import NetworkConfig, TextConfig
from models.official.imported import import_checkpoint
from pipeline.training.metrics_log import MetricsLog
from pipeline.training.ranks import Ranks
from tests.detector_checkpoint import converted, detector
from tests.training.conftest import NETWORK, TINY
from tests.training.in_ranks import train

SMALL = {"heads": 2, "decoder_layers": 1, "pairs": 6, "fusion_width": 32, "fusion_heads": 2, "text": NETWORK["text"]}


def test_a_converted_detector_is_trained_from(shard, work: Path, tmp_path: Path) -> None:
    config = NetworkConfig(
        backbone="resnet_w8_1_1_1_1",
        width=32,
        heads=2,
        encoder_layers=1,
        decoder_layers=2,
        pairs=10,
        feedforward=32,
        fusion_interval=1,
        text=TextConfig(**NETWORK["text"]),
        official_compat=True,
    )
    torch.save({"model": converted(detector(config))}, tmp_path / "theirs_converted.pth")
    made = import_checkpoint(tmp_path / "theirs_converted.pth", overrides=SMALL)
    weights.write(made.state, made.config, tmp_path / "pretrained.safetensors")
    settings = {"network": made.config.to_dict(), "pretrained": str(tmp_path / "pretrained.safetensors")}
    train(Ranks(), shard, work, TINY | settings | {"steps": 2, "processes": 1, "log_every": 1})
    losses = [row["value"] for row in MetricsLog(work / "metrics.jsonl").table().to_pylist() if row["name"] == "loss"]
    assert len(losses) == 2 and all(torch.isfinite(torch.tensor(losses)))
    trained = torch.load(work / "state.pt")
    moved = {name for name, value in made.state.items() if not torch.equal(trained[name], value)}
    # The first layers of a pre-trained backbone stay as they are; without `pretrained` they would be random.
    assert "backbone.body.conv1.weight" not in moved
    assert "transformer.ho_decoder.layers.0.linear1.weight" in moved
