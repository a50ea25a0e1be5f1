"""What RLIP and the Relation Tagger share: the encoder of images and texts, the heads, the relation stage.

Shapes: B images, H×W pixels, S tokens of all levels, L levels, T texts (To objects, then Tv predicates), E text
width, D width, G groups, P pairs a group, N = G·P pairs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.backbone import Backbone
from models.config import NetworkConfig
from models.decoder import Decoded, Decoder, to_pairs
from models.deformable_attention import DeformableAttention
from models.encoded import Encoded
from models.encoder import Encoder
from models.perceptron import box_head
from models.position_encoding import encode_map
from models.predictions import Predictions
from models.relation_queries import RelationQueries
from models.text_encoder import TextEncoder

PRIOR_LOGIT = -math.log(99)


class Network(nn.Module):
    """Encoder and heads; subclasses make the queries. Parameters are named as the authors', see `official.py`."""

    def __init__(self, config: NetworkConfig, tokenizer_folder: Path | str) -> None:
        super().__init__()
        self.config = config
        width, layers = config.width, config.decoder_layers
        self.backbone = Backbone(config.backbone, config.backbone_norm, config.backbone_strides)
        self.input_proj = _projections(self.backbone.channels, config.levels, width)
        self.transformer = nn.Module()
        self.transformer.level_embed = nn.Parameter(torch.empty(config.levels, width))
        self.transformer.encoder = Encoder(config)
        anchored = config.architecture == "parseda"
        self.transformer.ho_decoder = Decoder(config, anchored)
        self.transformer.verb_decoder = Decoder(config, anchored)
        if config.relation_queries != "vanilla":
            self.transformer.verb_tgt_generator = RelationQueries(width, config.relation_branches)
        self.transformer.resizer = nn.ModuleDict({
            "fc": nn.Linear(config.text.hidden, width),
            "layer_norm": nn.LayerNorm(width, eps=1e-12),
            "dropout": nn.Dropout(config.text.dropout)})
        self.projection_text = nn.Linear(width, width)
        self.bias_obj_a = nn.Parameter(torch.zeros(width))
        self.bias_pred_a = nn.Parameter(torch.zeros(width))
        # The authors refine boxes in the relation decoder too, by heads that no loss reaches.
        heads = 2 * layers if config.official_compat else layers
        self.sub_bbox_embed = nn.ModuleList(box_head(width) for _ in range(heads))
        self.obj_bbox_embed = nn.ModuleList(box_head(width) for _ in range(heads))
        self._reset_parameters()
        self.transformer.text_encoder = TextEncoder(config.text, tokenizer_folder)

    def _reset_parameters(self) -> None:
        for parameter in self.transformer.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        for module in self.modules():
            if isinstance(module, DeformableAttention | RelationQueries):
                module.reset_parameters()
        nn.init.normal_(self.transformer.level_embed)
        if self.config.architecture == "parsed":
            for heads in (self.sub_bbox_embed, self.obj_bbox_embed):
                nn.init.constant_(heads[0].layers[-1].bias[2:].detach(), -2.0)

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Features T×E of label texts, before any fusion."""
        return self.transformer.text_encoder(texts)

    def encode(
        self, images_B3HW: Tensor, padding_BHW: Tensor, objects_TE: Tensor, predicates_TE: Tensor
    ) -> Encoded:
        """Encodes a batch together with its label texts.

        `padding` is True on padded pixels, which lie right of and below the image. The last of `objects` is the text
        that stands for "no objects". Images are normalised by ImageNet's mean and deviation.
        """
        padded = bool(padding_BHW.any())
        maps = self._padded_maps(images_B3HW, padding_BHW) if padded else self._maps(images_B3HW)
        shapes = [(x.shape[2], x.shape[3]) for x in maps]
        paddings = [self._level_padding(padding_BHW if padded else padding_BHW[:1], x) for x in maps]
        position_BSD = torch.cat([encode_map(~padding, self.config.width) + embed for padding, embed
                                  in zip(paddings, self.transformer.level_embed, strict=True)], dim=1)
        valid_ratios_BL2 = torch.stack([torch.stack(((~x[:, 0]).float().mean(1), (~x[:, :, 0]).float().mean(1)), -1)
                                        for x in paddings], dim=1)
        texts_TE = torch.cat((objects_TE, predicates_TE))
        hidden_T = texts_TE.sum(1) <= 0 if self.config.official_compat and self.training else None
        padding_BS = torch.cat([x.flatten(1) for x in paddings], dim=1) if padded else None
        memory_BSD, fused = self.transformer.encoder(
            torch.cat([x.flatten(2) for x in maps], dim=2).transpose(1, 2), position_BSD, shapes, valid_ratios_BL2,
            padding_BS, texts_TE[None], None if hidden_T is None else hidden_T[None],
            mask_fusion=not self.config.official_compat)
        layers = self.config.decoder_layers
        texts = [self._resize(x) for x in fused[-layers:]]
        classifiers = [self.projection_text(F.normalize(x, dim=-1) / 2) for x in texts]
        classifiers = classifiers[:1] * (layers - len(classifiers)) + classifiers
        return Encoded(memory_BSD, padding_BS, shapes, valid_ratios_BL2, texts[-1], classifiers, len(objects_TE))

    def _maps(self, images_B3HW: Tensor) -> list[Tensor]:
        """Projected maps of all levels."""
        raw = self.backbone(images_B3HW)
        maps = [project(x) for project, x in zip(self.input_proj, raw, strict=False)]
        last = raw[-1]
        for project in self.input_proj[len(raw):]:
            last = project(last)
            maps.append(last)
        return maps

    def _padded_maps(self, images_B3HW: Tensor, padding_BHW: Tensor) -> list[Tensor]:
        """As `_maps`, with images of each size computed by themselves, so that padding reaches no convolution."""
        if self.config.official_compat:
            return self._maps(images_B3HW)
        heights = (~padding_BHW[:, :, 0]).sum(1).tolist()
        widths = (~padding_BHW[:, 0]).sum(1).tolist()
        sizes = list(zip(heights, widths, strict=True))
        rows_of: dict[tuple[int, int], list[int]] = {}
        for row, size in enumerate(sizes):
            rows_of.setdefault(size, []).append(row)
        by_size = {(h, w): self._maps(images_B3HW[rows, :, :h, :w]) for (h, w), rows in rows_of.items()}
        padded = []
        for level in range(self.config.levels):
            height = max(maps[level].shape[2] for maps in by_size.values())
            width = max(maps[level].shape[3] for maps in by_size.values())
            parts = [F.pad(maps[level], (0, width - maps[level].shape[3], 0, height - maps[level].shape[2]))
                     for maps in by_size.values()]
            order = torch.tensor([row for rows in rows_of.values() for row in rows]).argsort()
            padded.append(torch.cat(parts)[order.to(images_B3HW.device)])
        return padded

    def _level_padding(self, padding_BHW: Tensor, map_BCHW: Tensor) -> Tensor:
        return F.interpolate(padding_BHW[:, None].float(), size=map_BCHW.shape[2:])[:, 0].bool()

    def _resize(self, texts_BTE: Tensor) -> Tensor:
        resizer = self.transformer.resizer
        return resizer["dropout"](resizer["layer_norm"](resizer["fc"](texts_BTE)))

    def _relations(self, last: Decoded, subjects_BND: Tensor, objects_BND: Tensor, embedding_ND: Tensor,
                   position: Tensor | None, groups: int, hidden_BN: Tensor | None, encoded: Encoded) -> list[Decoded]:
        """The relation stage, from the subjects and objects of the last layer of the first decoder."""
        content_BND = embedding_ND.expand(len(subjects_BND), -1, -1)
        if self.config.relation_queries != "vanilla":
            mixed = self.transformer.verb_tgt_generator(subjects_BND, objects_BND)
            content_BND = mixed if self.config.relation_queries == "MBF" else mixed + content_BND
        heads = None
        if self.config.official_compat:
            layers = self.config.decoder_layers
            heads = (self.sub_bbox_embed[layers:], self.obj_bbox_embed[layers:])
        return self.transformer.verb_decoder(content_BND, position, last.boxes.detach(), groups, hidden_BN, encoded,
                                             heads)

    def _predict(self, pairs: list[Decoded], relations: list[Decoded], groups: int, encoded: Encoded) -> Predictions:
        """Logits of every layer against its texts, the last layer's first."""
        layers = []
        for pair, relation, texts_BTD in zip(pairs, relations, encoded.classifiers, strict=True):
            objects_BTD, predicates_BTD = texts_BTD[:, : encoded.objects], texts_BTD[:, encoded.objects :]
            subjects_BND, objects_BND = to_pairs(pair.content_BQD, groups)
            layers.append(Predictions(
                subject_logits=_against(subjects_BND + self.bias_obj_a, objects_BTD),
                object_logits=_against(objects_BND + self.bias_obj_a, objects_BTD),
                predicate_logits=_against(relation.content_BQD + self.bias_pred_a, predicates_BTD),
                subject_boxes=pair.boxes.subjects,
                object_boxes=pair.boxes.objects))
        layers[-1].auxiliary = layers[:-1]
        return layers[-1]


def _against(queries_BND: Tensor, texts_BTD: Tensor) -> Tensor:
    return queries_BND @ texts_BTD.transpose(1, 2) + PRIOR_LOGIT


def _projections(channels: list[int], levels: int, width: int) -> nn.ModuleList:
    def projection(inputs: int, kernel: int, stride: int) -> nn.Sequential:
        conv = nn.Conv2d(inputs, width, kernel, stride=stride, padding=kernel // 2)
        nn.init.xavier_uniform_(conv.weight)
        nn.init.zeros_(conv.bias)
        return nn.Sequential(conv, nn.GroupNorm(32, width))

    made = [projection(inputs, 1, 1) for inputs in channels]
    for extra in range(levels - len(channels)):
        made.append(projection(width if extra else channels[-1], 3, 2))
    return nn.ModuleList(made)
