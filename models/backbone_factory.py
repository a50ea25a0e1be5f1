"""Builds backbone bodies by name: timm's, and bottleneck ResNets of any width and depth.

For example, `resnet_w16_2_2_3_2` is a ResNet with a stem of 16 channels and 2, 2, 3 and 2 blocks in its stages, at most 99;
`resnet_w64_3_4_6_3` is ResNet-50.
"""

from __future__ import annotations

import re
from typing import Any

import timm
import torch
from timm.models import FeatureInfo, build_model_with_cfg
from timm.models.resnet import Bottleneck, ResNet
from torch import nn

from models.config import ConfigError

_SIZED_RESNET = re.compile(r"resnet_w([1-9]\d{0,3})_([1-9]\d?)_([1-9]\d?)_([1-9]\d?)_([1-9]\d?)")


def sized_resnet(width: int, blocks: list[int]) -> str:
    """Returns the name of a bottleneck ResNet: timm's where it has one."""
    named: dict[tuple[int, ...], str] = {
        (3, 4, 6, 3): "resnet50",
        (3, 4, 23, 3): "resnet101",
        (3, 8, 36, 3): "resnet152",
    }
    if width == 64 and tuple(blocks) in named:
        return named[tuple(blocks)]
    return "_".join([f"resnet_w{width}", *map(str, blocks)])


def is_window_transformer(name: str) -> bool:
    """Whether the name is that of a Swin transformer (version 1)."""
    return name.startswith("swin_")


def create_backbone(name: str, out_indices: list[int] | None = None, drop_path: float = 0.0) -> nn.Module:
    """Builds a network that returns the maps of all or some of its stages. Raises `ConfigError` for unknown names.

    `drop_path`: probability of skipping the last residual block in training; proportionally less for earlier ones.
    """
    chosen: dict[str, Any] = {} if out_indices is None else {"out_indices": out_indices}
    if drop_path or is_window_transformer(name):
        chosen["drop_path_rate"] = drop_path
    if sizes := _SIZED_RESNET.fullmatch(name):
        width, *blocks = map(int, sizes.groups())
        body = build_model_with_cfg(
            _SizedResNet,
            name,
            pretrained=False,
            pretrained_cfg={"architecture": name},
            stem=width,
            layers=blocks,
            features_only=True,
            **chosen,
        )
        assert isinstance(body, nn.Module)
        return body
    if not timm.is_model(name):
        raise ConfigError(
            f"network setting backbone={name!r}: neither a timm model (see timm.list_models()) nor of the form "
            "resnet_w16_2_2_2_2"
        )
    if is_window_transformer(name):
        # Windows keep their size whatever the image size, as in detectors.
        chosen |= {"strict_img_size": False, "always_partition": True}
    return timm.create_model(name, pretrained=False, features_only=True, **chosen)


def feature_info(body: nn.Module) -> FeatureInfo:
    """Returns the strides and channels of a body's maps."""
    info = body.feature_info
    assert isinstance(info, FeatureInfo)
    return info


def stage_strides(name: str) -> list[int]:
    """Returns the strides of all maps of a body, finest first."""
    with torch.device("meta"):
        strides: list[int] = feature_info(create_backbone(name)).reduction()
    return strides


class _SizedResNet(ResNet):
    """A ResNet whose stem is as narrow as its first stage; timm's stem always has 64 channels."""

    def __init__(self, stem: int, layers: list[int], **settings: Any) -> None:
        widths = tuple(stem * 2**stage for stage in range(4))
        super().__init__(Bottleneck, tuple(layers), channels=widths, **settings)  # type: ignore[arg-type]
        self.add_module("conv1", nn.Conv2d(3, stem, 7, stride=2, padding=3, bias=False))
        self.add_module("bn1", nn.BatchNorm2d(stem))
        self.feature_info[0]["num_chs"] = stem
        wide = stem * Bottleneck.expansion
        shortcut = nn.Sequential(nn.Conv2d(stem, wide, 1, bias=False), nn.BatchNorm2d(wide))
        later = list(self.get_submodule("layer1").children())[1:]
        self.add_module("layer1", nn.Sequential(Bottleneck(stem, stem, downsample=shortcut), *later))
        self.init_weights()
