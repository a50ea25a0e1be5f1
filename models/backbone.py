"""Image features from a convolutional network or a window transformer (docs/networks.md, 2).

Shapes: B images, H×W pixels or cells, C channels.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.layers.norm_act import BatchNormAct2d, freeze_batch_norm_2d
from timm.models import FeatureInfo, build_model_with_cfg
from timm.models.resnet import Bottleneck, ResNet
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from models.config import ConfigError

GROUP_CHANNELS = 8
PATCH = 4
"""Side in pixels of the square patches that a window transformer starts from."""


class Backbone(nn.Module):
    """Extracts feature maps of the chosen strides, finest first."""

    def __init__(self, name: str, norm: str, strides: Sequence[int], drop_path: float = 0.0) -> None:
        super().__init__()
        every_map = stage_strides(name)
        missing = [stride for stride in strides if stride not in every_map]
        if missing:
            raise ConfigError(
                f"network setting backbone_strides: {name} has no map of stride {missing[0]}; "
                f"choose from {sorted(set(every_map))}"
            )
        self.body = create_backbone(name, [every_map.index(stride) for stride in strides], drop_path)
        self.channels: list[int] = feature_info(self.body).channels()
        self.channels_last = str(getattr(self.body, "output_fmt", "NCHW")).endswith("NHWC")
        windows = is_window_transformer(name)
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for channels in self.channels) if windows else None
        if norm == "frozen":
            self.body = freeze_batch_norm_2d(self.body)
            if _is_residual(self.body):
                fold_frozen_norms(self.body)
            _freeze_as_pretrained(self)
        elif norm == "group":
            _replace_batch_norms(self.body)

    def forward(self, images_B3HW: Tensor) -> list[Tensor]:
        """Returns B×C×H×W maps of the chosen strides."""
        if self.norms is not None:
            height, width = images_B3HW.shape[2:]
            # timm's patch embedding refuses other sizes.
            images_B3HW = F.pad(images_B3HW, (0, -width % PATCH, 0, -height % PATCH))
        # Convolutions and pooling are faster with channels last, on CPU and GPU alike.
        maps = self.body(images_B3HW.contiguous(memory_format=torch.channels_last))
        if self.norms is not None:
            maps = [norm(x) for norm, x in zip(self.norms, maps, strict=True)]
        return [x.permute(0, 3, 1, 2) if self.channels_last else x for x in maps]


def _replace_batch_norms(module: nn.Module) -> None:
    for name, child in module.named_children():
        if not isinstance(child, nn.BatchNorm2d):
            _replace_batch_norms(child)
            continue
        # The number of groups must divide that of the channels.
        groups = math.gcd(child.num_features, max(1, child.num_features // GROUP_CHANNELS))
        norm: nn.Module = nn.GroupNorm(groups, child.num_features)
        if isinstance(child, BatchNormAct2d):
            # timm's norm layers contain the activation after them.
            norm = nn.Sequential(norm, child.drop, child.act)
        setattr(module, name, norm)


def _is_residual(body: nn.Module) -> bool:
    return hasattr(body, "layer1")


def _freeze_as_pretrained(backbone: Backbone) -> None:
    """Freezes what the authors freeze: stem and first stage of ResNets, norms and position biases of others."""
    if _is_residual(backbone.body):
        fixed = [p for n, p in backbone.body.named_parameters() if not n.startswith(("layer2", "layer3", "layer4"))]
    else:
        fixed = [p for n, p in backbone.named_parameters() if "norm" in n or "relative_position_bias_table" in n]
    for parameter in fixed:
        parameter.requires_grad_(False)


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

    `name`: a model of timm, or a bottleneck ResNet of any width and depth. `resnet_w16_2_2_3_2` has a stem of 16
    channels and 2, 2, 3 and 2 blocks in its stages, at most 99; `resnet_w64_3_4_6_3` is ResNet-50.

    `drop_path`: probability of skipping the last residual block in training; proportionally less for earlier ones.
    """
    chosen: dict[str, Any] = {} if out_indices is None else {"out_indices": out_indices}
    if drop_path or is_window_transformer(name):
        # 0 is passed too, because timm's default for Swin is 0.1.
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


@cache
def stage_strides(name: str) -> tuple[int, ...]:
    """Returns the strides of all maps of a body, finest first."""
    with torch.device("meta"):
        return tuple(feature_info(create_backbone(name)).reduction())


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


class FoldedConv(nn.Conv2d):
    """A convolution whose weight and bias hold the scale and shift of the frozen norm after it: one pass, not three."""

    def __init__(self, conv: nn.Conv2d, norm: FrozenBatchNorm2d) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(conv.__dict__)
        # In a tuple, so that torch does not register its buffers under a second name.
        self.norm = (norm,)

    def forward(self, input: Tensor) -> Tensor:
        """Returns the normalised output. Gradients are those of the stored weights, without the norm."""
        weight, bias = self.folded()
        return F.conv2d(input, weight, bias, self.stride, self.padding, self.dilation, self.groups)

    def folded(self) -> tuple[Tensor, Tensor]:
        """Returns the weight and bias that compute the normalised output."""
        (norm,) = self.norm
        assert isinstance(norm.weight, Tensor) and isinstance(norm.running_mean, Tensor)
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        shift = norm.bias - norm.running_mean * scale
        if self.bias is not None:
            shift = shift + self.bias * scale
        return self.weight * scale[:, None, None, None], shift


class FoldedNorm(FrozenBatchNorm2d):
    """Keeps the buffers of a frozen norm that is folded into the convolution before it."""

    def __init__(self, norm: FrozenBatchNorm2d) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(norm.__dict__)

    def forward(self, x: Tensor) -> Tensor:
        """Returns its input."""
        return x


def fold_frozen_norms(body: nn.Module) -> None:
    """Folds each frozen norm of a residual network, where each norm is registered after its convolution."""
    for parent in list(body.modules()):
        for (conv_name, conv), (norm_name, norm) in pairwise(list(parent.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, FrozenBatchNorm2d):
                folded = FoldedNorm(norm)
                setattr(parent, norm_name, folded)
                setattr(parent, conv_name, FoldedConv(conv, folded))
