"""The parts that RLIP and the Relation Tagger share: the encoder of images and texts, the heads, the relation stage.

Shapes: B images, H×W pixels, S tokens of all levels, L levels, T texts (To objects, then Tv predicates), E text
width, D width, G groups, P pairs per group, N = G·P pairs.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.backbone import Backbone, is_window_transformer
from models.config import NetworkConfig
from models.decoder import Decoded, Decoder, to_pairs
from models.deformable_attention import DeformableAttention
from models.encoder import Encoded, Encoder
from models.fusion import LateFusion
from models.layers import box_head, encode_map
from models.predictions import Predictions
from models.text_encoder import TextEncoder, TextTokens

# Scores start at 1 %, which keeps a focal loss stable while negatives dominate (Lin et al., 2017).
PRIOR_LOGIT = -math.log(99)
Size = tuple[int, int]
"""Height and width."""


class Network(nn.Module):
    """Encoder and heads; subclasses add the queries. Parameter names mirror the authors' (see `official/names.py`)."""

    decode: Callable[..., Predictions]
    """Predicts pairs in images that are already encoded; a tagger's also takes the `PairQueries` to score."""

    def __init__(self, config: NetworkConfig, tokenizer_folder: Path | str | None) -> None:
        super().__init__()
        self.config = config
        width, layers = config.width, config.decoder_layers
        self.backbone = Backbone(
            config.backbone, config.backbone_norm, config.backbone_strides, config.backbone_drop_path
        )
        # The authors place a map's positions at the centres of cells after Swin, at their ends after ResNet.
        self.first_cell = 0.5 if config.official_compat and is_window_transformer(config.backbone) else 1.0
        self.input_proj = _projections(self.backbone.channels, config.levels, width)
        self.transformer = Transformer(config, tokenizer_folder)
        self.projection_text = nn.Linear(width, width)
        self.bias_obj_a = nn.Parameter(torch.zeros(width))
        self.bias_pred_a = nn.Parameter(torch.zeros(width))
        # The authors also refine boxes in the relation decoder, with heads that no loss reaches.
        heads = 2 * layers if config.official_compat else layers
        first_points = config.architecture == "parsed" and (config.official_compat or not config.tagger)
        self.sub_bbox_embed, self.obj_bbox_embed = (
            nn.ModuleList(box_head(width, from_point=first_points and layer == 0) for layer in range(heads))
            for _ in range(2)
        )

    def checkpoint_activations(self) -> None:
        """Makes the backward pass recompute activations of encoder and text encoder instead of keeping them: the same
        gradients, less memory, more time."""
        self.transformer.encoder.activation_checkpointing = True
        self.transformer.text_encoder.activation_checkpointing = True

    def forward(
        self, images_B3HW: Tensor, sizes: Sequence[Size] | None, texts: TextTokens, *queries: Any
    ) -> Predictions:
        """Predicts pairs in each image, scored against the texts; see `encode` for images, `decode` for queries."""
        objects_TE, predicates_TE = self.encode_tokens(texts)
        predictions = self.predict(images_B3HW, sizes, objects_TE, predicates_TE, *queries)
        predictions.predicate_features = predicates_TE
        return predictions

    def predict(
        self,
        images_B3HW: Tensor,
        sizes: Sequence[Size] | None,
        objects_TE: Tensor,
        predicates_TE: Tensor,
        *queries: Any,
    ) -> Predictions:
        """Does the same for texts that are already encoded."""
        return self.decode(self.encode(images_B3HW, sizes, objects_TE, predicates_TE), *queries)

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Returns T×E features of label texts, before any fusion."""
        return self.transformer.text_encoder(texts)

    def encode_tokens(self, texts: TextTokens) -> tuple[Tensor, Tensor]:
        """Returns the features of the object texts and of the predicate texts, To×E and Tv×E, before any fusion."""
        features_TE = self.transformer.text_encoder.encode_each(texts)
        return features_TE[: texts.objects], features_TE[texts.objects :]

    def encode(
        self, images_B3HW: Tensor, sizes: Sequence[Size] | None, objects_TE: Tensor, predicates_TE: Tensor
    ) -> Encoded:
        """Encodes a batch of images together with its label texts.

        Each image lies in the top left of its part of the tensor, with padding right of and below it; `sizes` has its
        height and width in pixels, None stands for images without padding. Sizes are plain numbers, so that no device
        has to be asked for them. The last of `objects_TE` is the text that stands for "no objects". Images are
        normalised by ImageNet's mean and standard deviation.
        Raises `ValueError` when there are no object texts; predicates may be empty.
        """
        if objects_TE.shape[0] == 0:  # an exporter takes `len` for a constant
            raise ValueError('the list of object texts is empty; pass at least the text for "no objects"')
        whole = (images_B3HW.shape[2], images_B3HW.shape[3])
        sizes = [whole] * len(images_B3HW) if sizes is None else sizes
        padded = any(size != whole for size in sizes)
        maps, paddings = self._padded_levels(images_B3HW, sizes) if padded else self._levels(images_B3HW)
        shapes = [(x.shape[2], x.shape[3]) for x in maps]
        position_BSD = torch.cat(
            [
                encode_map(~padding, self.config.width, self.first_cell) + embed
                for padding, embed in zip(paddings, self.transformer.level_embed, strict=True)
            ],
            dim=1,
        )
        valid_ratios_BL2 = torch.stack(
            [torch.stack(((~x[:, 0]).float().mean(1), (~x[:, :, 0]).float().mean(1)), -1) for x in paddings], dim=1
        )
        texts_TE = torch.cat((objects_TE, predicates_TE))
        key_padding_mask_1T: Tensor | None = None
        if self.config.official_compat and self.training:
            # The authors derive a text's padding mask from the sign of its summed features.
            key_padding_mask_1T = (texts_TE.float().sum(1) <= 0)[None]
            # A softmax over no text at all would be NaN.
            key_padding_mask_1T = key_padding_mask_1T & ~key_padding_mask_1T.all()
        padding_BS = torch.cat([x.flatten(1) for x in paddings], dim=1) if padded else None
        memory_BSD, fused = self.transformer.encoder(
            torch.cat([x.flatten(2) for x in maps], dim=2).transpose(1, 2),
            position_BSD,
            shapes,
            valid_ratios_BL2,
            padding_BS,
            texts_TE[None],
            key_padding_mask_1T,
            mask_fusion=not self.config.official_compat,
        )
        layers = self.config.decoder_layers
        texts = [self.transformer.resizer(x) for x in fused[-layers:]]
        # With fewer fusions than decoder layers, the first one serves several.
        texts = texts[:1] * (layers - len(texts)) + texts
        return Encoded(
            memory_BSD, padding_BS, shapes, valid_ratios_BL2, texts, key_padding_mask_1T, objects_TE.shape[0]
        )

    def _levels(self, images_B3HW: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Returns projected maps B×D×H×W of all levels, and paddings 1×H×W that are False everywhere."""
        raw = self.backbone(images_B3HW)
        # The other projections are those of levels beyond the backbone's maps.
        maps = [project(x) for project, x in zip(self.input_proj, raw, strict=False)]
        last = raw[-1]
        for project in self.input_proj[len(raw) :]:
            last = project(last)
            maps.append(last)
        return maps, [torch.zeros(1, *x.shape[2:], dtype=torch.bool, device=x.device) for x in maps]

    def _padded_levels(self, images_B3HW: Tensor, sizes: Sequence[Size]) -> tuple[list[Tensor], list[Tensor]]:
        """Same as `_levels`, with paddings B×H×W.

        Images of each size are processed separately, so that padding reaches no convolution and no norm.
        """
        if self.config.official_compat:
            maps, _ = self._levels(images_B3HW)
            padding_B1HW = outside(sizes, images_B3HW)[:, None].float()
            return maps, [F.interpolate(padding_B1HW, size=x.shape[2:])[:, 0].bool() for x in maps]
        rows_of: dict[Size, list[int]] = {}
        for row, size in enumerate(sizes):
            rows_of.setdefault(size, []).append(row)
        levels_of: dict[int, tuple[Tensor, ...]] = {}
        for (height, width), rows in rows_of.items():
            alike_B3HW = torch.stack([images_B3HW[row, :, :height, :width] for row in rows])
            levels_of |= dict(zip(rows, zip(*self._levels(alike_B3HW)[0], strict=True), strict=True))
        maps, paddings = [], []
        for level in range(self.config.levels):
            parts = [levels_of[row][level] for row in range(len(sizes))]
            shapes = [(x.shape[1], x.shape[2]) for x in parts]
            height, width = (max(shape[side] for shape in shapes) for side in (0, 1))
            maps.append(torch.stack([F.pad(x, (0, width - x.shape[2], 0, height - x.shape[1])) for x in parts]))
            paddings.append(outside(shapes, maps[-1]))
        return maps, paddings

    def _relations(
        self,
        last: Decoded,
        subjects_BND: Tensor,
        objects_BND: Tensor,
        embedding_ND: Tensor,
        position: Tensor | None,
        groups: int,
        key_padding_mask_BN: Tensor | None,
        encoded: Encoded,
    ) -> list[Decoded]:
        """Runs the relation stage on the subjects and objects of the first decoder's last layer."""
        content_BND = embedding_ND.expand(len(subjects_BND), -1, -1)
        if self.config.relation_queries != "vanilla":
            mixed = self.transformer.verb_tgt_generator(subjects_BND, objects_BND)
            content_BND = mixed if self.config.relation_queries == "MBF" else mixed + content_BND
        heads = None
        if self.config.official_compat:
            layers = self.config.decoder_layers
            heads = (self.sub_bbox_embed[layers:], self.obj_bbox_embed[layers:])
        return self.transformer.verb_decoder(
            content_BND, position, last.boxes.detach(), groups, key_padding_mask_BN, encoded, heads
        )

    def _predict(self, pairs: list[Decoded], relations: list[Decoded], groups: int, encoded: Encoded) -> Predictions:
        """Scores every layer against its texts; the last layer's predictions contain the others."""
        texts = encoded.texts
        if self.config.fusion == "late":
            pairs, relations, texts = self._fuse_late(pairs, relations, encoded)
        layers = []
        for pair, relation, texts_BTD in zip(pairs, relations, texts, strict=True):
            # Normalised and halved as in GLIP
            classifiers_BTD = self.projection_text(F.normalize(texts_BTD, dim=-1) / 2)
            objects_BTD, predicates_BTD = classifiers_BTD.tensor_split([encoded.objects], dim=1)
            subjects_BND, objects_BND = to_pairs(pair.content, groups)
            layers.append(
                Predictions(
                    subject_logits=_against(subjects_BND + self.bias_obj_a, objects_BTD),
                    object_logits=_against(objects_BND + self.bias_obj_a, objects_BTD),
                    predicate_logits=_against(relation.content + self.bias_pred_a, predicates_BTD),
                    subject_boxes=pair.boxes.subjects,
                    object_boxes=pair.boxes.objects,
                )
            )
        layers[-1].auxiliary = layers[:-1]
        return layers[-1]

    def _fuse_late(
        self, pairs: list[Decoded], relations: list[Decoded], encoded: Encoded
    ) -> tuple[list[Decoded], list[Decoded], list[Tensor]]:
        """Returns the last layer's queries and the texts after each fusion layer, with each decoder layer's boxes."""
        objects_BTD, predicates_BTD = encoded.texts[-1].tensor_split([encoded.objects], dim=1)
        object_key_padding_mask_BT, predicate_key_padding_mask_BT = None, None
        if encoded.text_key_padding_mask is not None:
            key_padding_mask_BT = encoded.text_key_padding_mask.expand(len(objects_BTD), -1)
            object_key_padding_mask_BT, predicate_key_padding_mask_BT = key_padding_mask_BT.tensor_split(
                [encoded.objects], dim=1
            )
        detected = self.transformer.obj_fusion(pairs[-1].content, objects_BTD, object_key_padding_mask_BT)
        related = self.transformer.verb_fusion(relations[-1].content, predicates_BTD, predicate_key_padding_mask_BT)
        return (
            [Decoded(queries, pair.boxes) for (queries, _), pair in zip(detected, pairs, strict=True)],
            [Decoded(queries, relation.boxes) for (queries, _), relation in zip(related, relations, strict=True)],
            [
                torch.cat((objects, predicates), dim=1)
                for (_, objects), (_, predicates) in zip(detected, related, strict=True)
            ],
        )


def outside(sizes: Sequence[Size], like_BCHW: Tensor) -> Tensor:
    """Returns the mask B×H×W of maps that hold images of these sizes in their top left: True outside the image."""
    mask_BHW = torch.ones(len(sizes), *like_BCHW.shape[2:], dtype=torch.bool, device=like_BCHW.device)
    for row, (height, width) in enumerate(sizes):
        mask_BHW[row, :height, :width] = False
    return mask_BHW


def _against(queries_BND: Tensor, texts_BTD: Tensor) -> Tensor:
    return queries_BND @ texts_BTD.transpose(1, 2) + PRIOR_LOGIT


class _MapNorm(nn.GroupNorm):
    """Group norm on contiguous maps: with channels last it is less exact."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        normed: Tensor = super().forward(x_BCHW.contiguous())
        return normed


def _projections(channels: list[int], levels: int, width: int) -> nn.ModuleList:
    def projection(inputs: int, kernel: int, stride: int) -> nn.Sequential:
        conv = nn.Conv2d(inputs, width, kernel, stride=stride, padding=kernel // 2)
        nn.init.xavier_uniform_(conv.weight)
        assert conv.bias is not None
        nn.init.zeros_(conv.bias)
        # At least two channels per group: a single value would be its own mean.
        return nn.Sequential(conv, _MapNorm(min(32, width // 2), width))

    projections = [projection(inputs, 1, 1) for inputs in channels]
    for extra in range(levels - len(channels)):
        projections.append(projection(width if extra else channels[-1], 3, 2))
    return nn.ModuleList(projections)


class RelationQueries(nn.Module):
    """Content of relation queries from subject and object (docs/networks.md, 4): a sum of R low-rank bilinear branches.

    The matrices of all branches lie side by side in three square ones, which gives the same sum.
    """

    def __init__(self, width: int, branches: int) -> None:
        super().__init__()
        self.branches = branches
        self.fc_1 = nn.Linear(width, width)
        self.fc_2 = nn.Linear(width, width)
        self.fc_3 = nn.Linear(width, width)

    def reset_parameters(self) -> None:
        """Initialises each branch as a separate layer, with Xavier's rule."""
        with torch.no_grad():
            for layer, axis in ((self.fc_1, 0), (self.fc_2, 0), (self.fc_3, 1)):
                for branch in layer.weight.chunk(self.branches, dim=axis):
                    nn.init.xavier_uniform_(branch)
                nn.init.zeros_(layer.bias)

    def forward(self, subjects_BPD: Tensor, objects_BPD: Tensor) -> Tensor:
        """Returns B×P×D."""
        return F.relu(self.fc_3(F.relu(self.fc_1(subjects_BPD) * self.fc_2(objects_BPD))))


class Transformer(nn.Module):
    """The modules that the authors keep under `transformer`, with their names; `Network` calls them."""

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
        # Maps texts from their width to that of the image.
        self.resizer = nn.Sequential(
            OrderedDict(
                fc=nn.Linear(config.text.hidden, config.width),
                layer_norm=nn.LayerNorm(config.width, eps=1e-12),
                dropout=nn.Dropout(config.text.dropout),
            )
        )
        self._reset_parameters()
        # Created after the reset, which would overwrite its own initial weights.
        self.text_encoder = TextEncoder(config.text, tokenizer_folder)

    def _reset_parameters(self) -> None:
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        for module in self.modules():
            if isinstance(module, DeformableAttention | RelationQueries):
                module.reset_parameters()
        nn.init.normal_(self.level_embed)
