"""`rlip weights import` of detectors at full size, as published and as the authors of RLIPv2 convert them."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
import torch
from rlip_command import output_of

from models import weights
from models.config import NetworkConfig, TextConfig
from models.official.imported import from_detector
from models.official.sizes import kind_of
from tests.detector_checkpoint import converted, detector

SMALL_TEXTS = {"hidden": 64, "layers": 1, "heads": 2, "feedforward": 64, "vocabulary": 64, "max_positions": 16}
"""No detector has a text encoder: a small one keeps what is written small."""
SWIN = "swin_tiny_patch4_window7_224"


@pytest.mark.parametrize(
    ("kind", "architecture", "backbone", "two_stage", "sizes"),
    [
        ("DAB-Deformable-DETR", "parseda", "resnet50", False, (604, 1281)),
        ("DAB-Deformable-DETR", "parseda", SWIN, False, None),
        ("Deformable-DETR", "parsed", "resnet50", False, None),
        ("Deformable-DETR", "parsed", SWIN, True, None),
    ],
)
def test_a_converted_detector_is_read_as_the_detector_that_it_holds(
    kind: str, architecture: str, backbone: str, two_stage: bool, sizes: tuple[int, int] | None, tmp_path: Path
) -> None:
    config = NetworkConfig(
        architecture=architecture,
        backbone=backbone,
        decoder_layers=6,
        fusion_interval=1,
        pairs=150,
        feedforward=1024 if architecture == "parsed" else 2048,
        text=TextConfig(**SMALL_TEXTS),
        official_compat=True,
    )  # type: ignore[arg-type]
    state = detector(config, two_stage)
    both = converted(state)
    if sizes:
        assert (len(state), len(both)) == sizes, "as many as in the published file and its conversion"
    theirs, out = tmp_path / "theirs_converted.pth", tmp_path / "ours.safetensors"
    args = {"two_stage": two_stage, "dropout": 0.0, "nheads": 8}
    torch.save({"model": both, "args": argparse.Namespace(**args)}, theirs)
    texts = [word for name, size in SMALL_TEXTS.items() for word in ("--set", f"text.{name}={size}")]
    told = json.loads(output_of("weights", "import", theirs, out, "--json", *texts))
    assert told["kind"] == kind and "sub_bbox_embed.0.layers.0.weight" in told["left_out"]
    assert any("reference_points_sub" in name for name in told["expected_new"]) == two_stage
    network = weights.load(out, None)
    assert network.config.backbone == backbone and network.config.pairs == 100
    state_dict = network.state_dict()
    plain, _ = from_detector(state, kind_of(state), {})
    again, _ = from_detector(both, kind_of(both), {})
    assert again.keys() == plain.keys() and all(torch.equal(value, plain[name]) for name, value in again.items())
    layer = "layers.2.cross_attn.value_proj.weight"
    for stage in ("ho", "verb"):
        assert torch.equal(state_dict[f"transformer.{stage}_decoder.{layer}"], state[f"transformer.decoder.{layer}"])
    for role in ("sub", "obj"):
        head = "bbox_embed.5.layers.2.bias"
        assert torch.equal(state_dict[f"{role}_{head}"], state[head])
    if architecture == "parsed":
        table = state["query_embed.weight"][:200]
        halves = [table] * 3 if two_stage else [table, table[:, 256:]]
        assert torch.equal(state_dict["query_embed.weight"], torch.cat(halves, dim=1))
    else:
        assert torch.equal(state_dict["verb_tgt_embed.weight"], state["tgt_embed.weight"][:200])
