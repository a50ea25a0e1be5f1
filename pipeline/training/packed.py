"""Packs values that hold many small tensors, so that a device or another process gets all of them in one copy."""

from __future__ import annotations

import io
import pickle
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

ALIGNMENT = 16
"""Bytes; a tensor of any type may start at a multiple of this."""
Place = tuple[int, torch.dtype, tuple[int, ...]]
"""Where a tensor lies in the block: first byte, type and shape."""


@dataclass(frozen=True)
class Packed:
    """A value whose tensors lie in one block of bytes. Only values that this program itself packed may be unpacked."""

    block: Tensor
    """Bytes"""
    rest: bytes
    """The value without its tensors, pickled."""

    @classmethod
    def of(cls, value: object) -> Packed:
        """Packs any value that can be pickled. Its tensors must be on the CPU."""
        rest = io.BytesIO()
        packer = _Packer(rest)
        packer.dump(value)
        block = torch.zeros(packer.size, dtype=torch.uint8)
        for (first, _, _), tensor in zip(packer.places, packer.tensors, strict=True):
            block[first : first + tensor.nbytes] = tensor.contiguous().reshape(-1).view(torch.uint8)
        return cls(block, rest.getvalue())

    def to(self, device: torch.device) -> Any:
        """Returns the value with its tensors on a device, as views of the block's copy there."""
        return _Unpacker(self.rest, self.block.to(device, non_blocking=True)).load()

    def pin_memory(self) -> Packed:
        """Moves the block to memory that a GPU reads while the processor goes on."""
        return Packed(self.block.pin_memory(), self.rest)

    def __reduce__(self) -> tuple[Any, ...]:
        """Goes to another process by value: to share memory, processes shake hands, which takes longer than this copy."""
        return _received, (self.block.numpy(), self.rest)


def _received(block: Any, rest: bytes) -> Packed:
    return Packed(torch.from_numpy(block), rest)


class _Packer(pickle.Pickler):
    """Pickles a value with the places of its tensors instead of the tensors."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self.size = 0
        self.places: list[Place] = []
        self.tensors: list[Tensor] = []

    def persistent_id(self, value: object) -> Place | None:
        """Returns the place of a tensor, and None for anything else."""
        if not isinstance(value, Tensor):
            return None
        place = (self.size, value.dtype, tuple(value.shape))
        self.places.append(place)
        self.tensors.append(value)
        self.size += -(-value.nbytes // ALIGNMENT) * ALIGNMENT
        return place


class _Unpacker(pickle.Unpickler):
    def __init__(self, rest: bytes, block: Tensor) -> None:
        super().__init__(io.BytesIO(rest))
        self._block = block

    def persistent_load(self, place: Place) -> Tensor:
        """Returns the tensor of a place."""
        first, dtype, shape = place
        last = first + dtype.itemsize * torch.Size(shape).numel()
        return self._block[first:last].view(dtype).view(shape)
