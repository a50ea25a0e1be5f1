"""The captioner with two heads that it needs for learning alone."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scenes.captioning.model import fresh_model

ONE_PART, ONE_RELATION = 10.0, 10.0
"""Weights of the heads' losses, which are means over many mostly empty outputs."""


class Learner(nn.Module):
    """B pictures, N patches, L tokens of all captions of a picture in a row, T parts, R relations.

    One head tells of each patch what it shows and which part that plays; the other, which relations the picture holds.
    """

    def __init__(self, parts: int, relations: int) -> None:
        super().__init__()
        self.captioner = fresh_model()
        width = self.captioner.vision_model.config.hidden_size
        self.parts = nn.Linear(width, parts)
        self.relations = nn.Linear(width, relations)
        for head in (self.parts, self.relations):
            nn.init.constant_(head.bias, -3.5)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The losses by name, from pixels (B, 3, SIDE, SIDE), tokens, places and targets (B, L; -1 where nothing is
        taught), mask (B, 1, L, L), parts (B, N, T) and relations (B, R)."""  # fmt: skip
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
        """Parameters for an optimizer: matrices decay, biases and norms do not."""
        parameters: list[torch.nn.Parameter] = list(self.parameters())
        return [
            {"params": [p for p in parameters if p.dim() > 1], "weight_decay": decay},
            {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
        ]
