"""Backbone bodies: ResNets of any width, Swin on images of any size."""

from __future__ import annotations

import pytest
import timm
import torch

from models.backbone import Backbone, create_backbone, sized_resnet
from models.config import ConfigError

SWIN = "swin_tiny_patch4_window7_224"


def test_a_resnet_of_timm_s_width_is_timm_s():
    theirs = timm.create_model("resnet26", features_only=True, out_indices=[2, 3, 4]).eval()
    ours = create_backbone("resnet_w64_2_2_2_2", [2, 3, 4]).eval()
    ours.load_state_dict(theirs.state_dict())
    image = torch.randn(1, 3, 50, 70)
    with torch.no_grad():
        for map_, expected in zip(ours(image), theirs(image), strict=True):
            torch.testing.assert_close(map_, expected, atol=0, rtol=0)
    assert sized_resnet(64, [3, 4, 6, 3]) == "resnet50" and sized_resnet(4, [1, 2, 3, 4]) == "resnet_w4_1_2_3_4"


def test_narrow_resnets_have_a_narrow_stem():
    backbone = Backbone("resnet_w4_1_1_1_1", "batch", (8, 32))
    assert backbone.channels == [32, 128] and backbone.body.conv1.weight.shape == (4, 3, 7, 7)
    assert [tuple(x.shape) for x in backbone(torch.randn(2, 3, 65, 33))] == [(2, 32, 9, 5), (2, 128, 3, 2)]


@pytest.mark.parametrize("name", ["resnet_w4", "resnet_w0_1_1_1_1", "swin_none"])
def test_unknown_names_say_what_is_known(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}.*resnet_w16_2_2_2_2"):
        Backbone(name, "frozen", (8, 16, 32))


def test_swin_s_maps_are_timm_s_normed_where_timm_takes_the_size():
    theirs = timm.create_model(SWIN, features_only=True, out_indices=[1, 2], img_size=224).eval()
    backbone = Backbone(SWIN, "frozen", (8, 16)).eval()
    backbone.body.load_state_dict(theirs.state_dict())
    image = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        for map_, expected_BHWC in zip(backbone(image), theirs(image), strict=True):
            normed = torch.nn.functional.layer_norm(expected_BHWC, expected_BHWC.shape[-1:])
            torch.testing.assert_close(map_, normed.permute(0, 3, 1, 2), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (50, 333), (229, 64)])
def test_swin_takes_images_of_any_size(height: int, width: int) -> None:
    backbone = Backbone(SWIN, "frozen", (8, 16, 32)).eval()
    with torch.no_grad():
        maps = backbone(torch.randn(1, 3, height, width))
    strides = (8, 16, 32)
    sizes = [(-(-height // stride), -(-width // stride)) for stride in strides]
    assert [tuple(x.shape[2:]) for x in maps] == sizes and [x.shape[1] for x in maps] == [192, 384, 768]
    assert all(x.isfinite().all() for x in maps)


def test_norms_and_position_biases_of_swin_are_fixed_as_the_authors_fix_them():
    backbone = Backbone(SWIN, "frozen", (8, 16, 32))
    fixed = {name for name, parameter in backbone.named_parameters() if not parameter.requires_grad}
    assert {"norms.0.weight", "body.layers_0.blocks.1.attn.relative_position_bias_table"} <= fixed
    assert all("norm" in name or "relative_position_bias_table" in name for name in fixed)
    assert not any("norm" in name for name, p in backbone.named_parameters() if p.requires_grad)
