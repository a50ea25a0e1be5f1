"""A stand-in for an accelerator: a device of its own to torch that computes on the CPU.

Like a GPU it refuses to compute with tensors of another device, and it counts what costs a GPU time: copies from the host,
and waits of the host for the device.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

NAME = "standin"
aten = torch.ops.aten
WAITS = {aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.equal, aten._unique2, aten.unique_dim, aten.bincount}
"""Operations whose result the host needs before it can go on: values, or a shape that depends on values."""


class StandInTensor(Tensor):
    """A tensor of the device, around a tensor of the CPU."""

    raw: Tensor

    @staticmethod
    def __new__(cls, raw: Tensor) -> StandInTensor:
        return Tensor._make_wrapper_subclass(
            cls, raw.size(), strides=raw.stride(), storage_offset=raw.storage_offset(), dtype=raw.dtype, device=f"{NAME}:0"
        )

    def __init__(self, raw: Tensor) -> None:
        self.raw = raw

    def tolist(self) -> Any:
        """Torch's own method takes no subclass."""
        return self.cpu().tolist()

    def __repr__(self) -> str:
        return f"StandInTensor({self.raw!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


@dataclass
class Traffic:
    """What was counted, by the operation and the line of ours that it comes from."""

    copies: Counter[str] = field(default_factory=Counter)
    """Copies from the host to the device."""
    waits: Counter[str] = field(default_factory=Counter)
    """Times that the host waited for the device. A copy that is not asked to go on in the background is such a wait."""


_traffic: list[Traffic] = []


def _count(kind: str, func: Any) -> None:
    if not _traffic:
        return
    ours = [f for f in traceback.extract_stack() if "site-packages" not in f.filename and f.filename != __file__]
    line = f"{func}, {Path(ours[-1].filename).name}:{ours[-1].lineno}"
    for traffic in _traffic:
        getattr(traffic, kind)[line] += 1


def _run(func: Any, args: Any, kwargs: Mapping[str, Any]) -> Any:
    packet = func._overloadpacket
    leaves = [leaf for leaf in tree_flatten((args, dict(kwargs)))[0] if isinstance(leaf, Tensor)]
    ours = [leaf for leaf in leaves if isinstance(leaf, StandInTensor)]
    device = kwargs.get("device")
    to_us = torch.device(device).type == NAME if device is not None else bool(ours)
    if packet is aten._to_copy or packet is aten.copy_:
        source = args[1] if packet is aten.copy_ else args[0]
        target_is_ours = isinstance(args[0], StandInTensor) if packet is aten.copy_ else to_us
        if isinstance(source, StandInTensor) and not target_is_ours:
            if not kwargs.get("non_blocking"):
                _count("waits", func)
            else:
                raise AssertionError("a copy to the host that nobody waits for")
        elif target_is_ours and not isinstance(source, StandInTensor):
            _count("copies", func)
            blocking = not (kwargs.get("non_blocking") or (packet is aten.copy_ and len(args) > 2 and args[2]))
            if blocking and source.numel() > 1:
                _count("waits", func)
    else:
        alien = [leaf for leaf in leaves if not isinstance(leaf, StandInTensor) and leaf.dim() > 0]
        if ours and alien:
            raise RuntimeError(f"{func}: expected all tensors on one device, but found {NAME} and {alien[0].device}")
        if packet in WAITS or (packet is aten.repeat_interleave and isinstance(args[0], StandInTensor) and len(leaves) > 1):
            _count("waits", func)
        if packet in (aten.index, aten.index_put, aten.index_put_) and any(
            isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8) for i in args[1]
        ):
            _count("waits", func)
    plain = lambda x: x.raw if isinstance(x, StandInTensor) else torch.device("cpu") if isinstance(x, torch.device) and x.type == NAME else x
    with torch._C._DisableTorchDispatch():
        out = func(*tree_map(plain, args), **tree_map(plain, dict(kwargs)))
    if packet is aten._local_scalar_dense or not to_us:
        return out
    wrapped = tree_map(lambda x: StandInTensor(x) if isinstance(x, Tensor) else x, out)
    return return_and_correct_aliasing(func, args, dict(kwargs), wrapped) if ours else wrapped


class _Factories(TorchDispatchMode):
    """Lets functions that make tensors without having one make them on the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _FromHost(TorchFunctionMode):
    """Lets functions that make tensors from Python's numbers make them on the device: these don't ask a dispatch mode."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is Tensor.new_tensor and isinstance(args[0], StandInTensor):
            func, kwargs = torch.tensor, {"dtype": args[0].dtype, "device": args[0].device} | kwargs
            args = args[1:]
        if func in (torch.tensor, torch.as_tensor) and torch.device(kwargs.get("device") or "cpu").type == NAME:
            device = kwargs.pop("device")
            return func(*args, **kwargs).to(device)
        return func(*args, **kwargs)


class _Module(_DummyBackendModule):  # type: ignore[misc]
    """What torch asks of a device's module."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        """Types that autocast may compute in."""
        return [torch.bfloat16]


@cache
def register() -> None:
    _setup_privateuseone_for_python_backend(NAME, backend_module=_Module())


@contextmanager
def standin_device() -> Iterator[torch.device]:
    """Makes the device known to torch."""
    register()
    with _Factories(), _FromHost():
        yield torch.device(NAME, 0)


@contextmanager
def counted() -> Iterator[Traffic]:
    """Counts inside this context."""
    traffic = Traffic()
    _traffic.append(traffic)
    try:
        yield traffic
    finally:
        _traffic.remove(traffic)
