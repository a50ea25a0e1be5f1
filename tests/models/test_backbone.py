"""Backbones by name, on images of any size."""

from __future__ import annotations

import pytest
import torch
from timm.layers import DropPath

from models.backbone import Backbone
from models.body import create_body

STRIDES = (8, 16, 32)
CHANNELS = {
    "resnet50": [512, 1024, 2048],
    "swin_tiny_patch4_window7_224": [192, 384, 768],
    "swin_large_patch4_window7_224": [384, 768, 1536],
}


@pytest.mark.parametrize("name", CHANNELS)
def test_released_backbones_take_images_of_any_size(name):
    with torch.device("meta"):
        backbone = Backbone(name, "frozen", STRIDES)
    assert backbone.channels == CHANNELS[name]
    for height, width in [(1, 1), (33, 250)] if name != "swin_large_patch4_window7_224" else [(70, 33)]:
        for stride, channels, found in zip(
            STRIDES, CHANNELS[name], backbone(torch.empty(1, 3, height, width, device="meta")), strict=True
        ):
            assert found.shape == (1, channels, -(-height // stride), -(-width // stride))


def test_what_is_fixed_is_what_the_authors_fix():
    with torch.device("meta"):
        residual, windows = (Backbone(name, "frozen", STRIDES) for name in list(CHANNELS)[:2])
    learnt = {name for name, parameter in residual.named_parameters() if parameter.requires_grad}
    assert {name.split(".")[1] for name in learnt} == {"layer2", "layer3", "layer4"}
    fixed = {name for name, parameter in windows.named_parameters() if not parameter.requires_grad}
    assert fixed and all("norm" in name or "relative_position_bias_table" in name for name in fixed)


def test_images_side_by_side_are_computed_as_alone():
    backbone = Backbone("swin_tiny_patch4_window7_224", "frozen", STRIDES).eval()
    images = torch.randn(2, 3, 40, 33)
    with torch.no_grad():
        for together, alone in zip(backbone(images), backbone(images[:1]), strict=True):
            torch.testing.assert_close(together[:1], alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("drop_path", [0.0, 0.4])
def test_residual_blocks_are_left_out_as_often_as_asked(drop_path):
    for name in ("swin_tiny_patch4_window7_224", "resnet_w16_1_1_1_1"):
        with torch.device("meta"):
            body = create_body(name, drop_path=drop_path)
        rates = [module.drop_prob for module in body.modules() if isinstance(module, DropPath)]
        assert max(rates, default=0.0) == pytest.approx(drop_path)
