"""Decoders of pair queries: first subjects and objects together, then relations (docs/networks.md, 4).

Shapes: B images, G groups, P pairs per group, N = G·P pairs, Q queries (2·N or N), D width, L levels.

Queries of different groups do not attend to each other. With two per pair, each group holds subjects, then objects.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.boxes import inverse_sigmoid
from models.config import NetworkConfig
from models.deformable_attention import DeformableAttention, References
from models.encoder import Encoded
from models.layers import Perceptron, SelfAttention, encode_boxes, feed_forward


@dataclass
class PairBoxes:
    """Current boxes of N pairs as the queries see them: B×N×4 cxcywh, or B×N×2 before the first refinement."""

    subjects: Tensor
    objects: Tensor

    def detach(self) -> PairBoxes:
        """Returns the same boxes, detached from the gradient."""
        return PairBoxes(self.subjects.detach(), self.objects.detach())

    def refined(self, subject_change_BN4: Tensor, object_change_BN4: Tensor) -> PairBoxes:
        """Returns the boxes after a change in logits."""
        return PairBoxes(_refine(self.subjects, subject_change_BN4), _refine(self.objects, object_change_BN4))


def _refine(boxes: Tensor, change_BN4: Tensor) -> Tensor:
    known = inverse_sigmoid(boxes)
    if known.shape[-1] == 2:
        # The head alone decides the size of a box that starts from a point.
        known = F.pad(known, (0, 2))
    return (change_BN4 + known).sigmoid()


@dataclass
class Decoded:
    """The queries and boxes after one decoder layer."""

    content: Tensor
    """B×Q×D"""
    boxes: PairBoxes


class Decoder(nn.Module):
    """Layers of self-attention, deformable attention to the image, and box refinement.

    With `anchored`, query positions are recomputed from their boxes before each layer (DAB-DETR); otherwise they stay
    the same throughout.
    """

    def __init__(self, config: NetworkConfig, anchored: bool) -> None:
        super().__init__()
        self.width, self.points, self.anchored = config.width, config.points, anchored
        self.scale_by_padding = config.official_compat
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.decoder_layers))
        if anchored:
            self.query_scale = Perceptron(config.width, config.width, config.width, 2)
            self.ref_point_head = Perceptron(2 * config.width, config.width, config.width, 2)

    def forward(
        self,
        content_BQD: Tensor,
        position_BQD: Tensor | None,
        boxes: PairBoxes,
        groups: int,
        key_padding_mask_BQ: Tensor | None,
        encoded: Encoded,
        heads: tuple[nn.ModuleList, nn.ModuleList] | None,
    ) -> list[Decoded]:
        """Returns each layer's output. `key_padding_mask_BQ` marks queries to ignore; without `heads`, boxes stay."""
        paired = content_BQD.shape[1] == 2 * boxes.subjects.shape[1]
        ratios_BL = encoded.valid_ratios[:, None]
        key_padding_mask_GQ = None if key_padding_mask_BQ is None else _by_group(key_padding_mask_BQ, groups)
        decoded: list[Decoded] = []
        for index, layer in enumerate(self.layers):
            places_BQ = _to_queries(boxes, groups) if paired else 0.5 * (boxes.subjects + boxes.objects)
            if places_BQ.shape[-1] == 2:
                references = References.at_points(places_BQ[:, :, None] * ratios_BL, encoded.shapes, self.points)
            else:
                scaled_BQL4 = places_BQ[:, :, None] * torch.cat((ratios_BL, ratios_BL), dim=-1)
                references = References.in_boxes(scaled_BQL4, encoded.shapes, self.points)
                if self.anchored:
                    # The authors' anchors of an image depend on the padding that its batch gives it.
                    anchor = scaled_BQL4[:, :, 0] if self.scale_by_padding else places_BQ
                    position_BQD = self.ref_point_head(encode_boxes(anchor, self.width))
                    # As in DAB-DETR, the first layer's positions are not scaled by its content.
                    if index > 0:
                        position_BQD = position_BQD * self.query_scale(content_BQD)
            assert position_BQD is not None
            content_BQD = layer(content_BQD, position_BQD, references, groups, key_padding_mask_GQ, encoded)
            if heads is not None:
                subjects, objects = to_pairs(content_BQD, groups) if paired else (content_BQD, content_BQD)
                boxes = boxes.refined(heads[0][index](subjects), heads[1][index](objects))
            decoded.append(Decoded(content_BQD, boxes))
            # As in Deformable DETR, a layer's loss does not train the boxes of the layers before.
            boxes = boxes.detach()
        return decoded


def _to_queries(boxes: PairBoxes, groups: int) -> Tensor:
    parts = (x.unflatten(1, (groups, -1)) for x in (boxes.subjects, boxes.objects))
    return torch.cat(tuple(parts), dim=2).flatten(1, 2)


def to_pairs(queries_BQD: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Splits queries into subjects and objects, each B×N×D."""
    subjects, objects = queries_BQD.unflatten(1, (groups, 2, -1)).unbind(2)
    return subjects.flatten(1, 2), objects.flatten(1, 2)


class _Layer(nn.Module):
    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.cross_attn = DeformableAttention(config.width, config.levels, config.heads, config.points)
        # Norms are numbered as in Deformable DETR, not in the order of use here.
        self.norm1 = nn.LayerNorm(config.width)
        self.self_attn = SelfAttention(config.width, config.heads, config.dropout)
        self.norm2 = nn.LayerNorm(config.width)
        self.linear1 = nn.Linear(config.width, config.feedforward)
        self.activation: nn.Module = nn.ReLU(inplace=True)
        self.linear2 = nn.Linear(config.feedforward, config.width)
        self.norm3 = nn.LayerNorm(config.width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        content_BQD: Tensor,
        position_BQD: Tensor,
        references: References,
        groups: int,
        key_padding_mask_GQ: Tensor | None,
        encoded: Encoded,
    ) -> Tensor:
        batch = content_BQD.shape[0]
        position_BQD = position_BQD.expand(batch, -1, -1)
        attended = self.self_attn(_by_group(content_BQD, groups), _by_group(position_BQD, groups), key_padding_mask_GQ)
        content_BQD = self.norm2(content_BQD + self.dropout(attended.reshape(content_BQD.shape)))
        read = self.cross_attn(content_BQD + position_BQD, references, encoded.memory, encoded.shapes, encoded.padding)
        content_BQD = self.norm1(content_BQD + self.dropout(read))
        outer_ND = feed_forward(content_BQD.flatten(0, 1), self.linear1, self.activation, self.dropout, self.linear2)
        return self.norm3(content_BQD + self.dropout(outer_ND).view_as(content_BQD))


def _by_group(queries_BQD: Tensor, groups: int) -> Tensor:
    """Moves the groups of B×Q×... queries into the batch axis."""
    return queries_BQD.unflatten(1, (groups, -1)).flatten(0, 1)
