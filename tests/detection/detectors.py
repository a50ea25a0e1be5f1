"""Small detectors of each kind with random weights, in the layout that their libraries save and load."""

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


def save_detector(kind: str, folder: Path) -> Path:
    """Saves a detector with 3 names and random weights, and its image processor, to `folder`."""
    import transformers as t

    torch.manual_seed(0)
    names = {"id2label": NAMES, "label2id": {name: number for number, name in NAMES.items()}}
    processor: Any = t.RTDetrImageProcessor(size={"height": 64, "width": 64})
    if kind in ("rt_detr_v2", "d_fine"):
        config: Any = (t.RTDetrV2Config if kind == "rt_detr_v2" else t.DFineConfig)(
            backbone_config=t.RTDetrResNetConfig(**_BACKBONE), encoder_in_channels=[16, 16, 16], encoder_hidden_dim=32,
            decoder_in_channels=[32, 32, 32], **_SIZES, **names,
        )  # fmt: skip
    else:
        backbone = t.ResNetConfig(**_BACKBONE | ({"out_features": ["stage4"]} if kind == "detr" else {}))
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


WORDS = ("person", "sofa", "zebra", "fire", "hydrant", ".")


def save_zero_shot(kind: str, folder: Path) -> Path:
    """Saves a zero-shot detector with random weights, its image processor and a tokenizer of `WORDS` to `folder`."""
    import transformers as t
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    torch.manual_seed(0)
    text = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    if kind == "grounding-dino":
        special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
        vocabulary = {word: place for place, word in enumerate((*special, *WORDS))}
        made = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
        made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        made.post_processor = processors.TemplateProcessing(
            "[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
        names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), special, strict=True))
        backbone = t.SwinConfig(
            image_size=64, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=2,
            out_features=["stage2", "stage3", "stage4"],
        )  # fmt: skip
        config: Any = t.GroundingDinoConfig(
            backbone_config=backbone, text_config=t.BertConfig(vocab_size=len(vocabulary), **text), max_text_len=12,
            **{name: size for name, size in _SIZES.items() if name != "num_queries"}, num_queries=12,
        )  # fmt: skip
        network: Any = t.GroundingDinoForObjectDetection(config)
        processor: Any = t.GroundingDinoImageProcessor(size={"shortest_edge": 64, "longest_edge": 96})
        tokenizer: Any = t.BertTokenizerFast(tokenizer_object=made, **names)
    else:
        size = {"patch_size": 16, "image_size": 64, "projection_dim": 32}
        letters = [f"{letter}{end}" for end in ("", "</w>") for letter in "abcdefghijklmnopqrstuvwxyz"]
        pieces = {piece: place for place, piece in enumerate([*letters, "<|startoftext|>", "<|endoftext|>"])}
        ends = {
            "vocab_size": len(pieces), "max_position_embeddings": 16, "pad_token_id": 0, "bos_token_id": 52,
            "eos_token_id": 53,
        }  # fmt: skip
        module = t.OwlViTConfig if kind == "owlvit" else t.Owlv2Config
        config = module(text_config={**text, **ends}, vision_config={**text, **size}, projection_dim=32)
        network = (t.OwlViTForObjectDetection if kind == "owlvit" else t.Owlv2ForObjectDetection)(config)
        processor = (t.OwlViTImageProcessor if kind == "owlvit" else t.Owlv2ImageProcessor)(
            size={"height": 64, "width": 64}
        )
        tokenizer = t.CLIPTokenizer(vocab=pieces, merges=[], model_max_length=16)
    for part in (network.eval(), processor, tokenizer):
        part.save_pretrained(folder)
    return folder
