"""Packs networks for inference: weights laid out once for the CPU's kernels, frozen norms folded in permanently.

On a CPU, PyTorch chooses its kernels anew at every call and, with one thread, picks slower ones for matrix products and
1×1 convolutions. Scores differ only by rounding.

Shapes: N rows, D width, B images, H×W cells, C channels.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.backbone import FoldedConv
from models.deformable_attention import DeformableAttention
from models.encoder import Encoder
from models.layers import PackedLinear, can_pack
from models.network import Network

AnyNetwork = TypeVar("AnyNetwork", bound=Network)

ROWS_TOGETHER = 2048
"""Number of rows that stay in the cache between a layer's attention and its end."""
ACTIVATED = "linear1"
"""Name of the feedforward layer that a ReLU follows."""


def packed(network: AnyNetwork, dtype: torch.dtype) -> AnyNetwork:
    """Packs a network for inference in `dtype` (float32 or bfloat16), in evaluation mode.

    The result shares tensors that are not repacked with the network, which stays unchanged. Where packing gains nothing
    (on devices other than a CPU, or without oneDNN), returns the network itself.
    """
    if not can_pack(next(network.parameters()).device, dtype):
        return network.eval()
    # Only the convolutions of backbones are replaced: the code of a body may read the weights of linear layers.
    result = _rebuilt(network, lambda name, child: None)
    for name in ("backbone", "input_proj"):
        setattr(result, name, _rebuilt(getattr(network, name), lambda n, c: _conv(c, dtype)))
    transformer = _rebuilt(network.transformer, lambda name, child: None)
    for name in ("encoder", "ho_decoder", "verb_decoder"):
        setattr(transformer, name, _rebuilt(getattr(network.transformer, name), lambda n, c: _layer(n, c, dtype)))
    result.transformer = transformer
    encoder = transformer.encoder
    assert isinstance(encoder, Encoder)
    encoder.rows_together = ROWS_TOGETHER
    return result.eval()


class PackedAttention(DeformableAttention):
    """Deformable attention with packed layers; queries are cast to their dtype once, for offsets and weights."""

    def __init__(self, attention: DeformableAttention, dtype: torch.dtype) -> None:
        nn.Module.__init__(self)
        self.levels, self.heads, self.points = attention.levels, attention.heads, attention.points
        self._dtype = dtype
        for name in ("value_proj", "output_proj", "attention_weights"):
            layer = getattr(attention, name)
            setattr(self, name, PackedLinear(layer.weight, layer.bias, dtype=dtype))
        self._offsets = PackedLinear(*attention.offset_weights(), dtype=dtype)

    def _offsets_and_weights(self, queries_BQD: Tensor) -> tuple[Tensor, Tensor]:
        queries_BQD = queries_BQD.to(self._dtype)
        offsets_BQM2LK = self._offsets(queries_BQD).unflatten(2, (self.heads, 2, -1))
        return offsets_BQM2LK, self.attention_weights(queries_BQD).unflatten(2, (self.heads, -1))


class PackedConv(nn.Module):
    """A convolution of channels-last maps in the dtype of its weight; a 1×1 convolution becomes a matrix product."""

    def __init__(self, conv: nn.Conv2d, dtype: torch.dtype) -> None:
        super().__init__()
        weight, bias = conv.folded() if isinstance(conv, FoldedConv) else (conv.weight, conv.bias)
        assert not isinstance(conv.padding, str)
        self._shape = (conv.stride, conv.padding, conv.dilation, conv.groups)
        single = conv.kernel_size == (1, 1) and self._shape == ((1, 1), (0, 0), (1, 1), 1)
        self._product = PackedLinear(weight.flatten(1), bias, dtype=dtype) if single else None
        self._weight = weight.detach().to(dtype).contiguous(memory_format=torch.channels_last)
        self._bias = None if bias is None else bias.detach().to(dtype)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Returns B×C'×H'×W' maps."""
        if self._product is not None:
            maps: Tensor = self._product(x_BCHW.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            return maps
        return F.conv2d(x_BCHW.to(self._weight.dtype), self._weight, self._bias, *self._shape)


Replace = Callable[[str, nn.Module], nn.Module | None]


def _rebuilt(module: Any, replace: Replace) -> Any:
    """Copies the module tree but shares all tensors; `replace` returns the substitute of a named child, or None."""
    rebuilt = copy.copy(module)
    rebuilt._modules = {
        name: child if child is None else (replace(name, child) or _rebuilt(child, replace))
        for name, child in module._modules.items()
    }
    return rebuilt


def _layer(name: str, child: nn.Module, dtype: torch.dtype) -> nn.Module | None:
    if type(child) is DeformableAttention:
        return PackedAttention(child, dtype)
    if type(child) is nn.ReLU:
        # It is applied within the product before it.
        return nn.Identity()
    if type(child) is not nn.Linear:
        return None
    return PackedLinear(child.weight, child.bias, dtype=dtype, then="relu" if name == ACTIVATED else "none")


def _conv(child: nn.Module, dtype: torch.dtype) -> nn.Module | None:
    fits = isinstance(child, FoldedConv) or type(child) is nn.Conv2d
    # The others have their own padding rules, or few products per weight.
    if not fits or not isinstance(child, nn.Conv2d) or isinstance(child.padding, str) or child.groups > 1:
        return None
    return PackedConv(child, dtype)
