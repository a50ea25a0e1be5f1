"""Folds frozen batch norms into the convolutions before them: one pass over the maps instead of three."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d


class FoldedConv(nn.Conv2d):
    """A convolution whose weight and bias include the scale and shift of the frozen norm after it."""

    def __init__(self, conv: nn.Conv2d, norm: FrozenBatchNorm2d) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(conv.__dict__)
        # In a tuple, so that its buffers are not registered under a second name.
        self.norm = (norm,)

    def forward(self, input: Tensor) -> Tensor:
        """Returns the normalised output. Gradients are those of the stored weights, without the norm."""
        weight, bias = self.folded()
        return F.conv2d(input, weight, bias, self.stride, self.padding, self.dilation, self.groups)

    def folded(self) -> tuple[Tensor, Tensor]:
        """Returns the weight and bias that compute the normalised output."""
        (norm,) = self.norm
        assert isinstance(norm.weight, Tensor) and isinstance(norm.running_mean, Tensor)
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        shift = norm.bias - norm.running_mean * scale
        if self.bias is not None:
            shift = shift + self.bias * scale
        return self.weight * scale[:, None, None, None], shift


class FoldedNorm(FrozenBatchNorm2d):
    """Keeps the buffers of a frozen norm that is folded into the convolution before it."""

    def __init__(self, norm: FrozenBatchNorm2d) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(norm.__dict__)

    def forward(self, x: Tensor) -> Tensor:
        """Returns its input."""
        return x


def fold_frozen_norms(body: nn.Module) -> None:
    """Folds each frozen norm of a residual network, where each norm is registered after its convolution."""
    for parent in list(body.modules()):
        for (conv_name, conv), (norm_name, norm) in pairwise(list(parent.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, FrozenBatchNorm2d):
                folded = FoldedNorm(norm)
                setattr(parent, norm_name, folded)
                setattr(parent, conv_name, FoldedConv(conv, folded))
