"""The modules that the authors keep under `transformer`: encoder, decoders, relation queries, text encoder.

Shapes: B images, T texts, E text width, D width, P pairs.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from models.config import NetworkConfig
from models.decoder import Decoder
from models.deformable_attention import DeformableAttention
from models.encoder import Encoder
from models.late_fusion import LateFusion
from models.relation_queries import RelationQueries
from models.text_encoder import TextEncoder


class Transformer(nn.Module):
    """Holds the modules under the authors' names; `Network` and its subclasses call them."""

    reference_points_sub: nn.Linear
    """ParSeD: from a subject's position to the point where it looks first."""
    reference_points_obj: nn.Linear
    verb_query_embed: nn.Embedding
    """ParSeD with fused relation queries: their positions."""
    coord_proj: nn.Linear
    """Tagger: from a box to a position."""
    verb_tgt: nn.Embedding
    """Tagger: content of relation queries, first for subjects, then for objects."""

    def __init__(self, config: NetworkConfig, tokenizer_folder: Path | str | None) -> None:
        super().__init__()
        anchored = config.architecture == "parseda"
        self.level_embed = nn.Parameter(torch.empty(config.levels, config.width))
        self.encoder = Encoder(config)
        self.ho_decoder = Decoder(config, anchored)
        self.verb_decoder = Decoder(config, anchored)
        if config.relation_queries != "vanilla":
            self.verb_tgt_generator = RelationQueries(config.width, config.relation_branches)
        if config.fusion == "late":
            self.obj_fusion, self.verb_fusion = LateFusion(config), LateFusion(config)
        self.resizer = _Resizer(config)
        self._reset_parameters()
        self.text_encoder = TextEncoder(config.text, tokenizer_folder)

    def _reset_parameters(self) -> None:
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        for module in self.modules():
            if isinstance(module, DeformableAttention | RelationQueries):
                module.reset_parameters()
        nn.init.normal_(self.level_embed)


class _Resizer(nn.Module):
    """Maps texts from their width to that of the image: B×T×E to B×T×D."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.fc = nn.Linear(config.text.hidden, config.width)
        self.layer_norm = nn.LayerNorm(config.width, eps=1e-12)
        self.dropout = nn.Dropout(config.text.dropout)

    def forward(self, texts_BTE: Tensor) -> Tensor:
        resized: Tensor = self.dropout(self.layer_norm(self.fc(texts_BTE)))
        return resized
