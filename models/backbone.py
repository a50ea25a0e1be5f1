"""Image features from a convolutional network or a window transformer (docs/networks.md, 2).

Shapes: B images, H×W pixels or cells, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from timm.layers.norm_act import BatchNormAct2d, freeze_batch_norm_2d
from torch import Tensor, nn

from models.backbone_factory import create_backbone, feature_info, is_window_transformer, stage_strides
from models.config import ConfigError
from models.frozen_norm import fold_frozen_norms

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
        groups = math.gcd(child.num_features, max(1, child.num_features // GROUP_CHANNELS))
        norm: nn.Module = nn.GroupNorm(groups, child.num_features)
        if isinstance(child, BatchNormAct2d):
            norm = nn.Sequential(norm, child.drop, child.act)
        setattr(module, name, norm)


def _is_residual(body: nn.Module) -> bool:
    return hasattr(body, "layer1")


def _freeze_as_pretrained(backbone: Backbone) -> None:
    """Freezes what the authors do: stem and first stage of residual networks, norms and position biases of others."""
    if _is_residual(backbone.body):
        fixed = [p for n, p in backbone.body.named_parameters() if not n.startswith(("layer2", "layer3", "layer4"))]
    else:
        fixed = [p for n, p in backbone.named_parameters() if "norm" in n or "relative_position_bias_table" in n]
    for parameter in fixed:
        parameter.requires_grad_(False)
