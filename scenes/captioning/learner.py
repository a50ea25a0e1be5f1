"""The captioner with two auxiliary heads for training."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scenes.captioning.model import fresh_model

ONE_PART, ONE_RELATION = 10.0, 10.0
"""Weights of the heads' losses. They are large because these losses are means over mostly empty outputs."""


class Learner(nn.Module):
    """Captioner and heads. One predicts the categories and roles in each patch, the other the picture's relations.

    Shapes: B images, N patches, L tokens of all captions of an image in a row, T parts, R relations.
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
