"""The small captioner: transformers' BLIP, small enough to train on a CPU, with its own word-level vocabulary."""

import json
import math
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration, BlipImageProcessor, BlipProcessor

from scenes.grammar import vocabulary
from scenes.ink import NAMED
from scenes.names import WORLD_CATEGORIES

PROMPT = "a picture of"
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "[ENC]")
PAD, UNK, CLS, SEP, MASK, DEC, ENC = range(len(SPECIAL))
SIDE = 160
"""Images are resized to SIDE x SIDE pixels, bicubic."""
PATCH = 16
GRID = SIDE // PATCH
ONE_PART, ONE_RELATION = 10.0, 10.0
"""Weights of the heads' losses. They are large because these losses are means over mostly empty outputs."""


def words() -> list[str]:
    """Returns the vocabulary in the order of its ids."""
    return [*SPECIAL, *sorted({*vocabulary(WORLD_CATEGORIES, list(NAMED)), *PROMPT.split()})]


def configuration() -> BlipConfig:
    """Returns BLIP's configuration at this size, 2.3 million parameters."""
    return BlipConfig(
        text_config={
            "vocab_size": len(words()), "hidden_size": 160, "num_hidden_layers": 2, "num_attention_heads": 5,
            "intermediate_size": 320, "max_position_embeddings": 32, "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0, "bos_token_id": DEC, "eos_token_id": SEP, "sep_token_id": SEP,
            "pad_token_id": PAD, "label_smoothing": 0.0, "projection_dim": 32,
        },
        vision_config={
            "hidden_size": 192, "intermediate_size": 384, "num_hidden_layers": 5, "num_attention_heads": 6,
            "image_size": SIDE, "patch_size": PATCH, "projection_dim": 32,
        },
        projection_dim=32, image_text_hidden_size=32, label_smoothing=0.0,
    )  # fmt: skip


def fresh_model(seed: int = 0) -> BlipForConditionalGeneration:
    """Returns an untrained captioner.

    transformers initialises BLIP's vision weights with a deviation of 1e-10, from which it does not learn. So all
    weights are drawn again: linear layers Xavier-uniform, patch filters as cosine waves, patch positions as sine waves.
    """
    torch.manual_seed(seed)
    model = BlipForConditionalGeneration(configuration())
    for name, weights in model.named_parameters():
        if weights.dim() == 2 and "embeddings" not in name:
            torch.nn.init.xavier_uniform_(weights)
        elif weights.dim() == 2:
            torch.nn.init.normal_(weights, std=0.05)
    vision = model.vision_model.embeddings
    with torch.no_grad():
        vision.patch_embedding.weight.copy_(_cosine_patches(vision.patch_embedding.weight.shape[0]))
        if vision.patch_embedding.bias is not None:
            vision.patch_embedding.bias.zero_()
        vision.class_embedding.normal_(std=0.02)
        vision.position_embedding.copy_(_sine_places(vision.position_embedding.shape[-1]))
    return model


def _cosine_patches(channels: int) -> torch.Tensor:
    """Returns (channels, 3, PATCH, PATCH): the lowest cosine waves of brightness and of two colour differences."""
    n = torch.arange(PATCH) + 0.5
    waves = torch.stack([torch.cos(math.pi * k * n / PATCH) * math.sqrt((2 if k else 1) / PATCH) for k in range(PATCH)])
    order = sorted(((i, j) for i in range(PATCH) for j in range(PATCH)), key=lambda ij: (ij[0] ** 2 + ij[1] ** 2, ij))
    axes = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [0.5, -1.0, 0.5]])
    axes = axes / axes.norm(dim=1, keepdim=True)
    counts = (channels // 2, channels // 4, channels - channels // 2 - channels // 4)
    out = []
    for axis, count in zip(axes, counts, strict=True):
        for i, j in order[:count]:
            gain = 0.25 * (1 + math.hypot(i, j)) ** 0.6
            out.append(gain * axis[:, None, None] * torch.outer(waves[i], waves[j]))
    return torch.stack(out)


def _sine_places(width: int) -> torch.Tensor:
    """Returns (1, 1 + GRID * GRID, width): sine waves of each patch's row and column."""
    quarter = width // 4
    rates = torch.exp(-math.log(40.0) * torch.arange(quarter) / quarter)
    ys, xs = torch.meshgrid(torch.arange(GRID), torch.arange(GRID), indexing="ij")
    waves = [f(v.reshape(-1, 1) * rates) for v in (ys, xs) for f in (torch.sin, torch.cos)]
    places = 0.3 * torch.cat(waves, dim=1)
    return torch.cat([torch.zeros(1, places.shape[1]), places])[None]


def export(model: BlipForConditionalGeneration, folder: Path) -> None:
    """Writes a folder for `from_pretrained`: half-precision weights, configuration, vocabulary and processors."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary_file = folder / "vocab.txt"
    vocabulary_file.write_text("\n".join(words()) + "\n")
    # A copy, because `half` changes a model in place, and training goes on with this one.
    half = BlipForConditionalGeneration(model.config)
    half.load_state_dict(model.state_dict())
    half.half().save_pretrained(folder)  # type: ignore[no-untyped-call]
    processor = BlipProcessor(  # type: ignore[no-untyped-call]
        BlipImageProcessor(size={"height": SIDE, "width": SIDE}),
        BertTokenizer(str(vocabulary_file), do_lower_case=True, model_max_length=32),
    )
    processor.save_pretrained(folder)
    # Older releases of transformers look for the image processor by this name.
    processor.image_processor.save_pretrained(folder)
    vocabulary_file.write_text("\n".join(words()) + "\n")
    # Only the file is in half precision: loading defaults to float32, in which CPUs compute.
    path = folder / "config.json"
    settings = json.loads(path.read_text())
    settings["dtype"] = "float32"
    path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")
    for file in folder.iterdir():
        file.chmod(0o644)


class Learner(nn.Module):
    """The captioner with auxiliary heads for the categories and roles in each patch and for the image's relations.

    Shapes: B images, N patches, L tokens of all captions of an image in a row, T parts, R relations.
    """

    def __init__(self, parts: int, relations: int) -> None:
        super().__init__()
        self.captioner = fresh_model()
        width = self.captioner.vision_model.config.hidden_size
        self.parts = nn.Linear(width, parts)
        self.relations = nn.Linear(width, relations)
        for head in (self.parts, self.relations):
            # Most targets are 0, so probabilities start low.
            nn.init.constant_(head.bias, -3.5)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Returns the losses by name, from pixels (B, 3, SIDE, SIDE), tokens, places and targets (B, L; target -1 is
        ignored), mask (B, 1, L, L), parts (B, N, T) and relations (B, R)."""  # fmt: skip
        seen_BND = self.captioner.vision_model(pixel_values=batch["pixels"]).last_hidden_state
        decoder = self.captioner.text_decoder
        hidden_BLD = decoder.bert(
            batch["tokens"], attention_mask=batch["mask"], position_ids=batch["places"],
            encoder_hidden_states=seen_BND, is_decoder=True, use_cache=False,
        ).last_hidden_state  # fmt: skip
        taught = batch["targets"] >= 0
        losses = {
            "caption": F.cross_entropy(decoder.cls(hidden_BLD[taught]).float(), batch["targets"][taught]),
            "parts": F.binary_cross_entropy_with_logits(self.parts(seen_BND[:, 1:]).float(), batch["parts"]),
            "relations": F.binary_cross_entropy_with_logits(self.relations(seen_BND[:, 0]).float(), batch["relations"]),
        }
        losses["loss"] = losses["caption"] + ONE_PART * losses["parts"] + ONE_RELATION * losses["relations"]
        return losses

    def groups(self, decay: float) -> list[dict[str, object]]:
        """Returns parameter groups for an optimizer. Weight decay applies to matrices, not to biases and norms."""
        parameters: list[torch.nn.Parameter] = list(self.parameters())
        return [
            {"params": [p for p in parameters if p.dim() > 1], "weight_decay": decay},
            {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
        ]
