"""RLIPv2-ParSeDA and ParSeD: detection of subject-object pairs and their relations (ICCV 2023, arXiv 2308.09351).

Shapes: B images, H×W pixels, P pairs, T texts, E text width, D width.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from models.boxes import inverse_sigmoid
from models.config import ConfigError, NetworkConfig
from models.decoder import PairBoxes, to_pairs
from models.encoder import Encoded
from models.layers import point_head
from models.network import Network
from models.predictions import Predictions

ANCHOR_SIDE = 0.25
"""Initial width and height of the queries' anchor boxes, as shares of the image."""


class RLIP(Network):
    """Detects pairs of objects in images and scores their relations against any label texts."""

    def __init__(self, config: NetworkConfig, tokenizer_folder: Path | str | None) -> None:
        if config.tagger:
            raise ConfigError("network setting tagger=True: set it to False, or build RelationTagger instead of RLIP")
        super().__init__(config, tokenizer_folder)
        width, pairs = config.width, config.pairs
        if config.architecture == "parseda":
            self.tgt_embed = nn.Embedding(2 * pairs, width)
            self.verb_tgt_embed = nn.Embedding(2 * pairs, width)
            self.refpoint_embed = nn.Embedding(2 * pairs, 4)
            self.refpoint_embed.weight.data.copy_(inverse_sigmoid(_spread_anchors(pairs)).repeat(2, 1))
            return
        self.query_embed = nn.Embedding(2 * pairs, 3 * width)
        self.transformer.reference_points_sub = point_head(width)
        self.transformer.reference_points_obj = point_head(width)
        if config.relation_queries != "vanilla":
            self.transformer.verb_query_embed = nn.Embedding(pairs, width)

    def decode(self, encoded: Encoded) -> Predictions:
        """Predicts pairs in images that are already encoded."""
        batch, pairs, layers = len(encoded.memory), self.config.pairs, self.config.decoder_layers
        position_BQD: Tensor | None = None
        if self.config.architecture == "parseda":
            content, relation = self.tgt_embed.weight, self.verb_tgt_embed.weight
            anchors = self.refpoint_embed.weight.sigmoid().expand(batch, -1, -1)
            boxes = PairBoxes(anchors[:, :pairs], anchors[:, pairs:])
        else:
            position, content, relation = self.query_embed.weight.chunk(3, dim=1)
            position_BQD = position.expand(batch, -1, -1)
            # In 32 bits also under autocast: bfloat16 would move boxes by pixels.
            boxes = PairBoxes(
                self.transformer.reference_points_sub(position_BQD[:, :pairs]).float().sigmoid(),
                self.transformer.reference_points_obj(position_BQD[:, pairs:]).float().sigmoid(),
            )
        heads = (self.sub_bbox_embed[:layers], self.obj_bbox_embed[:layers])
        detected = self.transformer.ho_decoder(
            content.expand(batch, -1, -1), position_BQD, boxes, 1, None, encoded, heads
        )
        subjects_BPD, objects_BPD = to_pairs(detected[-1].content, 1)
        relation_position: Tensor | None = None
        if self.config.architecture == "parsed":
            relation_position = subjects_BPD + objects_BPD
            if self.config.relation_queries != "vanilla":
                relation_position = self.transformer.verb_query_embed.weight[None]
        related = self._relations(
            detected[-1],
            subjects_BPD,
            objects_BPD,
            relation[:pairs] + relation[pairs:],
            relation_position,
            1,
            None,
            encoded,
        )
        return self._predict(detected, related, 1, encoded)


def _spread_anchors(pairs: int) -> Tensor:
    """Returns P×4 boxes with centres spread evenly (R2 sequence), so that each object starts near one."""
    steps = torch.arange(pairs, dtype=torch.float64)[:, None] * torch.tensor([0.7548776662466927, 0.5698402909980532])
    centres = (0.5 + steps).remainder(1.0).float()
    return torch.cat((centres, torch.full((pairs, 2), ANCHOR_SIDE)), dim=1)
