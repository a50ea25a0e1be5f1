"""Converts the BLIP weights of a checkpoint of LAVIS (or of the original) to a folder of transformers.

`python -m pipeline.captioning.lavis_weights CHECKPOINT.pth VOCAB.txt FOLDER` writes the folder that captioner "blip"
reads.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from models.official.checkpoint import read_checkpoint
from models.weights_file import WeightsError
from pipeline.captioning.lavis_worker import HEAD_WIDTH, layers
from storage.errors import FatalError

_EMBEDDINGS = "text_decoder.bert.embeddings.word_embeddings.weight"
NORM_EPSILON = 1e-6
"""Epsilon of the image encoder's norms in BLIP and LAVIS; transformers' default is 1e-5."""
_IN_BLOCK = {
    "norm1.": "layer_norm1.", "norm2.": "layer_norm2.", "attn.qkv.": "self_attn.qkv.",
    "attn.proj.": "self_attn.projection.", "mlp.": "mlp.",
}  # fmt: skip
_OUTSIDE = {
    "visual_encoder.cls_token": "vision_model.embeddings.class_embedding",
    "visual_encoder.pos_embed": "vision_model.embeddings.position_embedding",
    "visual_encoder.patch_embed.proj.": "vision_model.embeddings.patch_embedding.",
    "visual_encoder.norm.": "vision_model.post_layernorm.",
    "text_decoder.": "text_decoder.",
}


def to_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename weights of a LAVIS `BlipCaption` to transformers' names. Raises `FatalError` for an unknown name."""
    renamed = {}
    for name, values in state.items():
        if name.endswith("position_ids"):
            continue
        found = re.match(r"visual_encoder\.blocks\.(\d+)\.(.*)", name)
        names, start, rest = (
            (_IN_BLOCK, f"vision_model.encoder.layers.{found[1]}.", found[2]) if found else (_OUTSIDE, "", name)
        )
        prefix = next((old for old in names if rest.startswith(old)), None)
        if prefix is None:
            raise FatalError(
                f"{name}: not a captioning BLIP's weight; expected names like {', '.join([*_OUTSIDE][:3])}"
            )
        renamed[start + names[prefix] + rest[len(prefix) :]] = values
    return renamed


def read_weights(checkpoint: Path) -> dict[str, Tensor]:
    """The weights of an untrusted checkpoint. Raises `FatalError` for code, and for tensors that exceed the file."""
    try:
        return read_checkpoint(checkpoint).state
    except (WeightsError, OSError) as error:
        raise FatalError(str(error)) from error


def convert(checkpoint: Path, vocabulary: Path, folder: Path) -> None:
    """Write a transformers folder from a checkpoint (read without its code) and bert-base-uncased's vocab.txt."""
    from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration

    weights = to_transformers(read_weights(checkpoint))
    words = vocabulary.read_text(encoding="utf-8").splitlines()
    # BLIP adds these two to bert-base-uncased's vocabulary, in this order; a complete list has them already.
    added = [word for word in ("[DEC]", "[ENC]") if word not in words]
    words += added[: max(0, len(weights[_EMBEDDINGS]) - len(words))]
    config = BlipConfig(**_sizes(weights, words))
    model = BlipForConditionalGeneration(config)
    missing, unexpected = model.load_state_dict(weights, strict=False)
    missing = [name for name in missing if not name.endswith("position_ids")]
    if missing or unexpected:
        raise FatalError(f"{checkpoint}: not a captioning BLIP: lacks {missing[:3]}, has unknown {unexpected[:3]}")
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    BertTokenizer(vocab=str(folder / "vocab.txt")).save_pretrained(folder)


def _sizes(weights: Mapping[str, Tensor], words: list[str]) -> dict[str, Any]:
    """The configuration that the shapes show."""
    bert, vision = "text_decoder.bert.", "vision_model."
    patches = weights[vision + "embeddings.patch_embedding.weight"]
    embedded = weights[_EMBEDDINGS]
    places = weights[vision + "embeddings.position_embedding"].shape[1] - 1
    if len(words) != len(embedded) or "[DEC]" not in words:
        raise FatalError(
            f"the vocabulary has {len(words)} words with [DEC] and [ENC], the checkpoint {len(embedded)}: use the "
            "vocab.txt of bert-base-uncased, which BLIP was trained with"
        )
    end = words.index("[SEP]")
    return {
        "vision_config": {
            "hidden_size": len(patches),
            "intermediate_size": len(weights[vision + "encoder.layers.0.mlp.fc1.bias"]),
            "num_hidden_layers": layers(weights, vision + "encoder.layers."),
            "num_attention_heads": len(patches) // HEAD_WIDTH,
            "image_size": math.isqrt(places) * patches.shape[-1],
            "patch_size": patches.shape[-1],
            "layer_norm_eps": NORM_EPSILON,
        },
        "text_config": {
            "hidden_size": embedded.shape[1],
            "intermediate_size": len(weights[bert + "encoder.layer.0.intermediate.dense.bias"]),
            "num_hidden_layers": layers(weights, bert + "encoder.layer."),
            "num_attention_heads": embedded.shape[1] // HEAD_WIDTH,
            "max_position_embeddings": len(weights[bert + "embeddings.position_embeddings.weight"]),
            "encoder_hidden_size": len(patches),
            "vocab_size": len(words),
            "bos_token_id": words.index("[DEC]"),
            "sep_token_id": end,
            "eos_token_id": end,
            "pad_token_id": words.index("[PAD]"),
        },
    }


if __name__ == "__main__":
    if len(sys.argv) != 4:
        raise SystemExit(__doc__)
    convert(*(Path(argument) for argument in sys.argv[1:]))
