"""The Relation Tagger: ParSeD whose queries are pairs of labelled boxes from outside (docs/labels.md).

Shapes: B images, N pairs, G groups, P pairs per group, T texts, E text width, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.boxes import inverse_sigmoid
from models.config import ConfigError, NetworkConfig
from models.decoder import PairBoxes, to_pairs
from models.encoder import Encoded
from models.layers import point_head
from models.network import Network
from models.predictions import Predictions


@dataclass
class PairQueries:
    """Pairs of labelled boxes to score. Boxes are cxcywh, normalised by the image size without padding."""

    subject_boxes: Tensor
    """B×N×4"""
    object_boxes: Tensor
    """B×N×4"""
    subject_labels: Tensor
    """B×N, indices into the object texts"""
    object_labels: Tensor
    """B×N"""
    valid: Tensor
    """B×N bool; False marks empty slots, whose predictions are meaningless."""


class RelationTagger(Network):
    """Scores the relations of pairs of boxes.

    Pairs are split, in their order, into groups of `config.pairs`; only pairs of the same group attend to each other.
    """

    def __init__(self, config: NetworkConfig, tokenizer_folder: Path | str | None) -> None:
        if not config.tagger:
            raise ConfigError("network setting tagger=False: set it to True, or build RLIP instead of RelationTagger")
        super().__init__(config, tokenizer_folder)
        width = config.width
        # The authors learn one embedding per slot; here all slots share one, so that order does not matter.
        slots = config.pairs if config.official_compat else 1
        self.transformer.coord_proj = nn.Linear(4, width)
        self.transformer.verb_tgt = nn.Embedding(2 * slots, width)
        if config.relation_queries != "vanilla":
            self.transformer.verb_query_embed = nn.Embedding(slots, width)
        if config.official_compat:
            self.transformer.reference_points_sub = point_head(width)
            self.transformer.reference_points_obj = point_head(width)

    def decode(self, encoded: Encoded, queries: PairQueries) -> Predictions:
        """Predicts the relations of N pairs per image, for any N."""
        count = queries.valid.shape[1]
        groups = max(1, -(-count // self.config.pairs))
        # A single group is as long as its pairs, so that no computation goes to empty slots.
        slots = self.config.pairs if groups > 1 else max(1, count)
        queries = _fill(queries, groups * slots)
        labels_BTD = encoded.texts[-1].detach()
        valid_BN1 = queries.valid[..., None]
        content, position = [], []
        for labels_BN, boxes_BN4 in (
            (queries.subject_labels, queries.subject_boxes),
            (queries.object_labels, queries.object_boxes),
        ):
            text = labels_BTD.gather(1, labels_BN[..., None].expand(-1, -1, labels_BTD.shape[2]))
            content.append(text * valid_BN1)
            position.append(self.transformer.coord_proj(inverse_sigmoid(boxes_BN4)) * valid_BN1)
        boxes = PairBoxes(queries.subject_boxes, queries.object_boxes)
        if self.config.official_compat:  # in 32 bits also under autocast
            boxes = PairBoxes(
                self.transformer.reference_points_sub(position[0]).float().sigmoid(),
                self.transformer.reference_points_obj(position[1]).float().sigmoid(),
            )
        key_padding_mask_BGP = ~queries.valid.unflatten(1, (groups, -1))
        key_padding_mask_BGQ = torch.cat((key_padding_mask_BGP, key_padding_mask_BGP), dim=2)
        # A group of empty slots attends to its first query, because a softmax over nothing is NaN.
        key_padding_mask_BGQ[..., 0] &= ~key_padding_mask_BGP.all(2)
        layers = self.config.decoder_layers
        detected = self.transformer.ho_decoder(
            _interleave(content, groups),
            _interleave(position, groups),
            boxes,
            groups,
            key_padding_mask_BGQ.flatten(1),
            encoded,
            (self.sub_bbox_embed[:layers], self.obj_bbox_embed[:layers]),
        )
        subjects_BND, objects_BND = to_pairs(detected[-1].content, groups)
        subject_embedding, object_embedding = self.transformer.verb_tgt.weight.chunk(2)
        relation_position = subjects_BND + objects_BND
        if self.config.relation_queries != "vanilla":
            relation_position = _by_slot(self.transformer.verb_query_embed.weight, slots, groups)[None]
        related = self._relations(
            detected[-1],
            subjects_BND,
            objects_BND,
            _by_slot(subject_embedding + object_embedding, slots, groups),
            relation_position,
            groups,
            key_padding_mask_BGQ[:, :, :slots].flatten(1),
            encoded,
        )
        return self._predict(detected, related, groups, encoded).map(lambda each: each[:, :count])


def _fill(queries: PairQueries, slots: int) -> PairQueries:
    missing = slots - queries.valid.shape[1]
    return PairQueries(
        subject_boxes=F.pad(queries.subject_boxes, (0, 0, 0, missing), value=0.5),
        object_boxes=F.pad(queries.object_boxes, (0, 0, 0, missing), value=0.5),
        subject_labels=F.pad(queries.subject_labels, (0, missing)),
        object_labels=F.pad(queries.object_labels, (0, missing)),
        valid=F.pad(queries.valid, (0, missing)),
    )


def _interleave(subjects_and_objects: list[Tensor], groups: int) -> Tensor:
    """Merges two B×N×D tensors into B×2N×D queries: each group's subjects, then its objects."""
    return torch.cat([x.unflatten(1, (groups, -1)) for x in subjects_and_objects], dim=2).flatten(1, 2)


def _by_slot(embedding_SD: Tensor, slots: int, groups: int) -> Tensor:
    rows = embedding_SD.expand(slots, -1) if len(embedding_SD) == 1 else embedding_SD[:slots]
    return rows.repeat(groups, 1)
