"""The ALIF encoder: deformable attention over the image, fused early and sparsely with the texts (docs/networks.md, 3).

Shapes: B images, S tokens of all levels, L levels, T texts (objects, then predicates), D image width, E text width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.config import NetworkConfig
from models.deformable_attention import DeformableAttention, References
from models.fusion import Fusion, LanguageLayer
from models.layers import feed_forward


@dataclass
class Encoded:
    """A batch of images and one list of texts after the encoder: everything that the decoders need."""

    memory: Tensor
    """B×S×D image tokens"""
    padding: Tensor | None
    """B×S, True where a token lies in padding; None when no image is padded."""
    shapes: list[tuple[int, int]]
    """(height, width) of each level."""
    valid_ratios: Tensor
    """B×L×2 (1×L×2 when no image is padded): share of each level's width and height that the image fills."""
    texts: list[Tensor]
    """B×T×D text features for each decoder layer; the last ones come from the last fusion."""
    text_key_padding_mask: Tensor | None
    """1×T, True for texts that no attention may read; None when all may be read."""
    objects: int
    """Number of object texts among the T texts."""


class Encoder(nn.Module):
    """Encodes the image; before every `fusion_interval`-th layer, fuses the coarsest level with the texts."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.interval, self.points = config.fusion_interval, config.points
        self.activation_checkpointing = False
        """Whether the backward pass computes the activations inside image layers again."""
        self.rows_together: int | None = None
        """Number of tokens processed at a time after attention, for use without gradients; None: all."""
        self.layers = nn.ModuleList(_ImageLayer(config) for _ in range(config.encoder_layers))
        fusions = -(-config.encoder_layers // self.interval) if config.fusion == "alif" else 0
        self.VLFuse_layers = nn.ModuleList(_Fused(config) for _ in range(fusions))
        self.roberta_layers = nn.ModuleList(LanguageLayer(config.text) for _ in range(fusions))

    def forward(
        self,
        image_BSD: Tensor,
        position_BSD: Tensor,
        shapes: list[tuple[int, int]],
        valid_ratios_BL2: Tensor,
        padding_BS: Tensor | None,
        texts_1TE: Tensor,
        text_key_padding_mask_1T: Tensor | None,
        mask_fusion: bool,
    ) -> tuple[Tensor, list[Tensor]]:
        """Returns image tokens B×S×D and the texts B×T×E after each fusion (the input texts if there is none)."""
        # In double precision, so that a cell's centre on its own map is exact.
        centres_BSL2 = _cell_centres(shapes, valid_ratios_BL2.double())
        references = References.at_points(centres_BSL2, shapes, self.points).to(position_BSD.dtype)
        if image_BSD.is_cpu and torch.is_autocast_enabled("cpu"):
            # Every layer would cast the tokens several times, forward and backward.
            image_BSD, position_BSD = (x.to(torch.get_autocast_dtype("cpu")) for x in (image_BSD, position_BSD))
        first = image_BSD.shape[1] - shapes[-1][0] * shapes[-1][1]
        fused_padding = padding_BS[:, first:] if padding_BS is not None and mask_fusion else None
        texts_BTE = texts_1TE
        collected: list[Tensor] = []
        for index, layer in enumerate(self.layers):
            if self.VLFuse_layers and index % self.interval == 0:
                step = index // self.interval
                coarsest, texts_BTE = self.VLFuse_layers[step](
                    image_BSD[:, first:], position_BSD[:, first:], texts_BTE, fused_padding
                )
                image_BSD = torch.cat((image_BSD[:, :first], coarsest), dim=1)
                texts_BTE = self.roberta_layers[step](texts_BTE, text_key_padding_mask_1T)
                collected.append(texts_BTE)
            inputs = (image_BSD, position_BSD, references, shapes, padding_BS, self.rows_together)
            again = self.activation_checkpointing and torch.is_grad_enabled()
            image_BSD = checkpoint(layer, *inputs, use_reentrant=False) if again else layer(*inputs)
        return image_BSD, collected or [texts_1TE.expand(image_BSD.shape[0], -1, -1)]


class _Fused(nn.Module):
    """Wraps `Fusion` so that parameter names match the authors'."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.b_attn = Fusion(config)

    def forward(
        self, image_BVD: Tensor, position_BVD: Tensor, texts_BTE: Tensor, padding_BV: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        fused: tuple[Tensor, Tensor] = self.b_attn(image_BVD, position_BVD, texts_BTE, padding_BV)
        return fused


class _ImageLayer(nn.Module):
    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.self_attn = DeformableAttention(config.width, config.levels, config.heads, config.points)
        self.norm1 = nn.LayerNorm(config.width)
        self.linear1 = nn.Linear(config.width, config.feedforward)
        self.activation: nn.Module = nn.ReLU(inplace=True)
        self.linear2 = nn.Linear(config.feedforward, config.width)
        self.norm2 = nn.LayerNorm(config.width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x_BSD: Tensor,
        position_BSD: Tensor,
        references: References,
        shapes: list[tuple[int, int]],
        padding_BS: Tensor | None,
        rows_together: int | None,
    ) -> Tensor:
        read = self.self_attn(x_BSD + position_BSD, references, x_BSD, shapes, padding_BS)
        # Flattened, so that in-place changes do not act on a view, whose gradients would be copied three times.
        before = x_BSD.flatten(0, 1), read.flatten(0, 1)
        if rows_together is None:
            after_ND = self._after_attention(*before)
        else:
            after_ND = torch.cat(
                [self._after_attention(*rows) for rows in zip(*(x.split(rows_together) for x in before), strict=True)]
            )
        return after_ND.view_as(x_BSD)

    def _after_attention(self, x_ND: Tensor, read_ND: Tensor) -> Tensor:
        x_ND = self.norm1(x_ND + self.dropout(read_ND))
        outer_ND = feed_forward(x_ND, self.linear1, self.activation, self.dropout, self.linear2)
        normed_ND: Tensor = self.norm2(x_ND + self.dropout(outer_ND))
        return normed_ND


def _cell_centres(shapes: list[tuple[int, int]], valid_ratios_BL2: Tensor) -> Tensor:
    """Returns each token's centre as B×S×L×2 (x, y): its position in the valid image, on the map of every level."""
    own_levels = []
    for level, (height, width) in enumerate(shapes):
        rows, columns = (torch.arange(side, device=valid_ratios_BL2.device) for side in (height, width))
        y, x = (rows.to(valid_ratios_BL2.dtype) + 0.5) / height, (columns.to(valid_ratios_BL2.dtype) + 0.5) / width
        centre_S2 = torch.stack((x.expand(height, -1), y[:, None].expand(-1, width)), dim=-1).flatten(0, 1)
        own_levels.append(centre_S2 / valid_ratios_BL2[:, None, level])
    return torch.cat(own_levels, dim=1)[:, :, None] * valid_ratios_BL2[:, None]
