"""Determines a checkpoint's backbone from the shapes of its parameters."""

from __future__ import annotations

import re
from collections.abc import Mapping

from models.backbone_factory import sized_resnet
from models.config import ConfigError

_BODY = "backbone.0.body."
_SWIN: dict[tuple[int, tuple[int, ...]], str] = {
    (96, (2, 2, 6, 2)): "tiny",
    (96, (2, 2, 18, 2)): "small",
    (128, (2, 2, 18, 2)): "base",
    (192, (2, 2, 18, 2)): "large",
}


def backbone_name(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Returns the backbone's name in `models.backbone_factory`. Raises `ConfigError` for unsupported backbones."""
    body = {name.removeprefix(_BODY): shape for name, shape in shapes.items() if name.startswith(_BODY)}
    if "conv1.weight" in body and "layer1.0.bn3.weight" in body:
        return sized_resnet(
            body["conv1.weight"][0], [_blocks(body, rf"layer{stage}\.(\d+)\.") for stage in range(1, 5)]
        )
    biases = body.get("layers.0.blocks.0.attn.relative_position_bias_table", ())
    if len(body.get("patch_embed.proj.weight", ())) == 4 and len(biases) == 2:
        width = body["patch_embed.proj.weight"][0]
        depths = tuple(_blocks(body, rf"layers\.{stage}\.blocks\.(\d+)\.") for stage in range(4))
        window = (round(biases[0] ** 0.5) + 1) // 2
        if (width, depths) in _SWIN and window in (7, 12):
            return f"swin_{_SWIN[width, depths]}_patch4_window{window}_{32 * window}"
    raise ConfigError(
        f"unsupported backbone (neither a bottleneck ResNet nor a Swin); its parameters begin with {sorted(body)[:3]}"
    )


def _blocks(body: Mapping[str, tuple[int, ...]], pattern: str) -> int:
    return len({found[1] for name in body if (found := re.match(pattern, name))})
