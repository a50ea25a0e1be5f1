"""A checkpoint of LAVIS for tests and benchmarks, whose weights are those of a `BlipForConditionalGeneration`."""

from collections.abc import Mapping

from torch import Tensor

_LAVIS = {
    "vision_model.encoder.layers.": "visual_encoder.blocks.",
    "vision_model.embeddings.class_embedding": "visual_encoder.cls_token",
    "vision_model.embeddings.position_embedding": "visual_encoder.pos_embed",
    "vision_model.embeddings.patch_embedding.": "visual_encoder.patch_embed.proj.",
    "vision_model.post_layernorm.": "visual_encoder.norm.", ".layer_norm": ".norm", ".self_attn.": ".attn.",
    ".attn.projection.": ".attn.proj.",
}  # fmt: skip
"""Part of a name in transformers' image encoder → that in LAVIS's."""


def to_lavis(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames weights of a `BlipForConditionalGeneration` to LAVIS's names."""
    renamed = {}
    for name, values in state.items():
        if name.startswith("vision_model."):
            for ours, theirs in _LAVIS.items():
                name = name.replace(ours, theirs)
        if not name.endswith("position_ids"):
            renamed[name] = values
    return renamed
