"""Backbones by name, on images of any size."""

from copy import deepcopy

import pytest
import timm
import torch
from timm.layers import DropPath
from timm.layers.norm_act import freeze_batch_norm_2d

from models.backbone import Backbone, FoldedConv, create_backbone, fold_frozen_norms, sized_resnet
from models.config import ConfigError

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


def test_residual_blocks_are_left_out_as_often_as_asked():
    for name in ("swin_tiny_patch4_window7_224", "resnet_w16_1_1_1_1"):
        with torch.device("meta"):
            body = create_backbone(name, drop_path=0.4)
        rates = [module.drop_prob for module in body.modules() if isinstance(module, DropPath)]
        assert max(rates) == pytest.approx(0.4)


@pytest.mark.parametrize("name", ["resnet18", "resnet_w16_1_2_1_1"])
def test_folded_norms_compute_and_learn_as_they_do_unfolded(name):
    plain = freeze_batch_norm_2d(create_backbone(name))
    for name_, buffer in plain.named_buffers():
        buffer.copy_(torch.rand_like(buffer) + (0.5 if "var" in name_ or "weight" in name_ else 0))
    folded = deepcopy(plain)
    fold_frozen_norms(folded)
    assert any(isinstance(module, FoldedConv) for module in folded.modules())
    assert folded.state_dict().keys() == plain.state_dict().keys()
    folded.load_state_dict(plain.state_dict())
    images = torch.randn(2, 3, 64, 96)
    outputs = [body(images) for body in (plain, folded)]
    for first, second in zip(*outputs, strict=True):
        torch.testing.assert_close(second, first, atol=1e-4, rtol=1e-4)
    for maps in outputs:
        sum(x.square().mean() for x in maps).backward()
    for (name_, first), second in zip(plain.named_parameters(), folded.parameters(), strict=True):
        torch.testing.assert_close(second.grad, first.grad, atol=1e-4, rtol=1e-3, msg=name_)


def test_folded_norms_follow_their_values():
    body = freeze_batch_norm_2d(create_backbone("test_resnet"))
    fold_frozen_norms(body)
    images = torch.randn(1, 3, 64, 64)
    before = body(images)[-1]
    body.load_state_dict({name: value * 1.5 for name, value in body.state_dict().items()})
    assert (body(images)[-1] - before).abs().max() > 1e-3
    copied = deepcopy(body).double()
    assert copied(images.double())[-1].dtype == torch.float64
    torch.testing.assert_close(copied(images.double())[-1].float(), body(images)[-1], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("norm", ["frozen", "group"])
def test_weights_and_their_gradients_lie_in_memory_alike(norm):
    """The fused optimizer relies on this."""
    backbone = Backbone("test_resnet", norm, STRIDES)
    sum(x.square().mean() for x in backbone(torch.randn(1, 3, 64, 64))).backward()
    learnt = [parameter for parameter in backbone.parameters() if parameter.grad is not None]
    assert learnt and all(p.is_contiguous() and p.grad.is_contiguous() for p in learnt)


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
def test_unknown_names_say_what_is_known(name):
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
