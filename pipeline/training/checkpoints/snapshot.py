"""A copy of tensors in memory that another process can read, laid out as a safetensors file.

The trainer pays for a copy in memory; a writer process does what is slow. The header also says where each tensor lies in
the whole, in the words of torch.distributed.checkpoint, whose reader puts the parts together.
"""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.distributed.checkpoint._hf_utils import CUSTOM_METADATA_KEY, SAVED_OFFSETS_KEY
from torch.distributed.tensor import DTensor

_KINDS = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_ALIGNMENT = 64


class Snapshot:
    """Memory that holds one copy at a time. `file` is its descriptor, which a child process inherits."""

    def __init__(self) -> None:
        self.file = os.memfd_create("checkpoint", 0)
        os.set_inheritable(self.file, True)
        self._memory: mmap.mmap | None = None

    def take(self, tensors: Mapping[str, Tensor]) -> int:
        """Copies the tensors, of sharded ones the part of this process. Returns the number of bytes of the file."""
        parts = {name: part for name, tensor in tensors.items() if (part := _part(tensor))[0].numel()}
        header, places, size = _layout(parts)
        if self._memory is None or len(self._memory) < size:
            if self._memory is not None:
                self._memory.close()
            os.ftruncate(self.file, size)
            self._memory = mmap.mmap(self.file, size)
        self._memory[: len(header)] = header
        whole = torch.frombuffer(self._memory, dtype=torch.uint8)
        for name, (first, last) in places.items():
            tensor = parts[name][0]
            whole[first:last].view(tensor.dtype).view(tensor.shape).copy_(tensor)
        del whole
        return size

    def close(self) -> None:
        """Frees the memory, once no child process holds it."""
        if self._memory is not None:
            self._memory.close()
        os.close(self.file)


def _part(tensor: Tensor) -> tuple[Tensor, list[int]]:
    """Returns this process's part of a tensor and its offset in the whole."""
    tensor = tensor.detach()
    if not isinstance(tensor, DTensor):
        return tensor, [0] * tensor.dim()
    local = tensor.to_local()
    chunks = tensor.__create_chunk_list__()  # type: ignore[no-untyped-call]
    return local, list(chunks[0].offsets) if chunks else [0] * local.dim()


def _layout(parts: Mapping[str, tuple[Tensor, list[int]]]) -> tuple[bytes, dict[str, tuple[int, int]], int]:
    """Returns the header, first and last byte of each tensor in the file, and the size of the file."""
    offsets = {name: {SAVED_OFFSETS_KEY: offset} for name, (_, offset) in parts.items()}
    entries: dict[str, object] = {"__metadata__": {CUSTOM_METADATA_KEY: json.dumps(offsets), "format": "pt"}}
    places: dict[str, tuple[int, int]] = {}
    place = 0
    # The widest types come first, so that each tensor is aligned.
    for name, (tensor, _) in sorted(parts.items(), key=lambda item: (-item[1][0].element_size(), item[0])):
        end = place + tensor.numel() * tensor.element_size()
        entries[name] = {"dtype": _KINDS[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [place, end]}
        places[name] = place, end
        place = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)
    header = len(text).to_bytes(8, "little") + text
    return (
        header,
        {name: (len(header) + first, len(header) + last) for name, (first, last) in places.items()},
        (len(header) + place),
    )
