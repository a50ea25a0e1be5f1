"""Small detectors of each kind with random weights, in the layout that their libraries save and load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

NAMES = {0: "person", 1: "sofa", 2: "zebra"}
_SIZES: dict[str, Any] = {
    "d_model": 32, "encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "num_queries": 12,
}  # fmt: skip
_BACKBONE: dict[str, Any] = {
    "embedding_size": 8, "hidden_sizes": [8, 16, 16, 16], "depths": [1, 1, 1, 1], "layer_type": "basic",
    "out_features": ["stage2", "stage3", "stage4"],
}  # fmt: skip


def _rt_detr() -> dict[str, Any]:
    from transformers import RTDetrResNetConfig

    return {
        "backbone_config": RTDetrResNetConfig(**_BACKBONE), "encoder_in_channels": [16, 16, 16],
        "encoder_hidden_dim": 32, "feat_channels": None, "decoder_in_channels": [32, 32, 32], **_SIZES,
    }  # fmt: skip


def save_detector(kind: str, folder: Path) -> Path:
    """Saves a detector with 3 names and random weights, and its image processor, to `folder`."""
    import transformers as t

    torch.manual_seed(0)
    names = {"id2label": NAMES, "label2id": {name: number for number, name in NAMES.items()}}
    processor: Any = t.RTDetrImageProcessor(size={"height": 64, "width": 64})
    if kind in ("rt_detr_v2", "d_fine"):
        settings = _rt_detr()
        settings.pop("feat_channels")
        config: Any = (t.RTDetrV2Config if kind == "rt_detr_v2" else t.DFineConfig)(**settings, **names)
    else:
        backbone = t.ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 16, 16, 16], depths=[1, 1, 1, 1], layer_type="basic",
            out_features=["stage4"] if kind == "detr" else ["stage2", "stage3", "stage4"],
        )  # fmt: skip
        made = {"detr": t.DetrConfig, "deformable_detr": t.DeformableDetrConfig}[kind]
        more = {} if kind == "detr" else {"num_feature_levels": 4}
        config = made(
            use_timm_backbone=False, use_pretrained_backbone=False, backbone_config=backbone, **_SIZES, **more, **names
        )
        sizes = {"shortest_edge": 64, "longest_edge": 96}
        processor = (t.DetrImageProcessor if kind == "detr" else t.DeformableDetrImageProcessor)(size=sizes)
    t.AutoModelForObjectDetection.from_config(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
