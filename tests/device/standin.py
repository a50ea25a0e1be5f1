"""A stand-in for an accelerator: a device of its own to torch that computes on the CPU.

Like a GPU it refuses to compute with tensors of another device, and it counts what costs a GPU time: copies from the
host, and waits of the host for the device.
"""

from __future__ import annotations

import threading
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

NAME = "standin"
aten = torch.ops.aten
WAITS = {
    aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.equal, aten._unique2, aten.unique_dim,
    aten.bincount,
}  # fmt: skip
"""Operations whose result the host needs before it can go on: values, or a shape that depends on values."""


class StandInTensor(Tensor):
    """A tensor of the device, around a tensor of the CPU."""

    raw: Tensor

    @staticmethod
    def __new__(cls, raw: Tensor) -> StandInTensor:
        return Tensor._make_wrapper_subclass(
            cls, raw.size(), strides=raw.stride(), storage_offset=raw.storage_offset(), dtype=raw.dtype,
            device=f"{NAME}:0",
        )  # fmt: skip

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


def _of_cpu(value: Any) -> Any:
    """Returns what the CPU takes in place of a tensor of the device, or of the device; lists of tensors, too."""
    if isinstance(value, StandInTensor):
        return value.raw
    if isinstance(value, list | tuple):
        return [_of_cpu(each) for each in value]
    return torch.device("cpu") if isinstance(value, torch.device) and value.type == NAME else value


def _of_device(value: Any) -> Any:
    if isinstance(value, Tensor):
        return StandInTensor(value)
    return type(value)(map(_of_device, value)) if isinstance(value, list | tuple) else value


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """Yields tensors among an operation's arguments and their lists. torch's own search takes longer than all else."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _run(func: Any, args: Any, kwargs: Mapping[str, Any]) -> Any:
    """Runs an operation on the CPU and returns tensors of the device, if it has operands there or is to make some."""
    operands = list(_tensors((*args, *kwargs.values())))
    ours = [operand for operand in operands if isinstance(operand, StandInTensor)]
    device = kwargs.get("device")
    to_us = bool(ours) if device is None else torch.device(device).type == NAME
    if not ours and not to_us:
        with torch._C._DisableTorchDispatch():
            return func(*args, **kwargs)
    packet = func._overloadpacket
    if packet is aten.copy_ and _aside and args[2:] == (True,) and not isinstance(args[0], StandInTensor):
        _aside.copies.append((args[0], args[1].raw))
        return args[0]
    if packet is aten._to_copy:
        _copied(func, args[0], to_us, bool(kwargs.get("non_blocking")))
    elif packet is aten.copy_:
        _copied(func, args[1], isinstance(args[0], StandInTensor), len(args) > 2 and args[2])
    elif ours:
        aliens = [x for x in operands if not isinstance(x, StandInTensor) and x.dim() > 0]
        if aliens:
            raise RuntimeError(f"{func}: expected all tensors on one device, but found {NAME} and {aliens[0].device}")
        masks = args[1] if packet in (aten.index, aten.index_put, aten.index_put_) else ()
        by_mask = any(isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in masks)
        by_counts = packet is aten.repeat_interleave and len(operands) > 1
        # Its backward pass asks for the number of zeros, unless the tensor is of a class like this one.
        has_zeros = packet is aten.prod and torch.is_grad_enabled()
        if packet in WAITS or by_mask or by_counts or has_zeros:
            _count("waits", func)
    with torch._C._DisableTorchDispatch():
        out = func(*map(_of_cpu, args), **{name: _of_cpu(value) for name, value in kwargs.items()})
    if packet is aten._local_scalar_dense or not to_us:
        return out
    wrapped = _of_device(out)
    return return_and_correct_aliasing(func, args, dict(kwargs), wrapped) if ours else wrapped


def _copied(func: Any, source: Tensor, to_us: bool, in_background: bool) -> None:
    """Counts a copy between host and device. Raises `AssertionError` for one that the host would read too early."""
    if isinstance(source, StandInTensor) and not to_us:
        assert not in_background, "a copy to the host that nobody waits for"
        _count("waits", func)
    elif to_us and not isinstance(source, StandInTensor):
        _count("copies", func)
        if not in_background:
            _count("waits", func)


class _Factories(TorchDispatchMode):
    """Lets functions that make tensors without having one make them on the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _FromHost(TorchFunctionMode):
    """Lets functions that make tensors from Python's numbers make them on the device: these ask no dispatch mode."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is Tensor.new_tensor and isinstance(args[0], StandInTensor):
            func, kwargs = torch.tensor, {"dtype": args[0].dtype, "device": args[0].device} | kwargs
            args = args[1:]
        if func in (torch.tensor, torch.as_tensor) and torch.device(kwargs.get("device") or "cpu").type == NAME:
            device = kwargs.pop("device")
            return func(*args, **kwargs).to(device)
        return func(*args, **kwargs)


class Stream:
    """A queue of copies to the host beside the main queue, which is always empty. They are made as late as possible."""

    patience = 0.0
    """Seconds after which a host that waits for the copies has them made, if nothing else does."""

    def __init__(self) -> None:
        self.copies: list[tuple[Tensor, Tensor]] = []
        self._making, self._made = threading.Lock(), threading.Event()

    def wait_stream(self, main: None) -> None:
        """Waits for the main queue."""

    def make(self) -> None:
        """Makes the copies."""
        with self._making, torch._C._DisableTorchDispatch():
            for to, source in self.copies:
                to.copy_(source)
            self.copies.clear()
        self._made.set()

    def synchronize(self) -> None:
        """Lets the host wait for the copies."""
        if not self._made.wait(self.patience):
            self.make()


class Event:
    """What a stream holds. All are waited for together."""

    streams: ClassVar[list[Stream]] = []

    def record(self, stream: Stream) -> None:
        """Stands for all that the stream holds now."""
        self.streams.append(stream)

    def wait(self) -> None:
        """Lets the main queue wait for it."""
        for stream in self.streams:
            stream.make()

    def synchronize(self) -> None:
        """Lets the host wait for it. In a thread that has not chosen its GPU, CUDA would take memory of the first."""
        assert hasattr(_chosen, "device"), "a thread that waits for the first GPU"
        for stream in self.streams:
            stream.synchronize()


_chosen = threading.local()
"""The device of each thread that has chosen one."""


_aside: Stream | None = None
"""The queue that takes copies to the host in the background; None: the main one."""


class _Module(_DummyBackendModule):  # type: ignore[misc]
    """What torch asks of a device's module."""

    Stream, Event = Stream, Event

    @contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        """Copies to the host are put in that queue inside the context."""
        global _aside
        _aside = stream
        yield
        _aside = None

    def current_stream(self) -> None:
        """The main queue."""

    def set_device(self, device: torch.device) -> None:
        """Chooses the device of this thread."""
        _chosen.device = device

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        """Types that autocast may compute in."""
        return [torch.bfloat16]


@cache
def register() -> None:
    _setup_privateuseone_for_python_backend(NAME, backend_module=_Module())


@contextmanager
def standin_device() -> Iterator[torch.device]:
    """Tells torch of the device. Inference mode, which takes no wrapped tensors, only turns gradients off meanwhile."""
    register()
    entered, left = (
        mock.patch.object(torch.inference_mode, "__enter__", _enter),
        mock.patch.object(torch.inference_mode, "__exit__", _leave),
    )
    with entered, left, _Factories(), _FromHost():
        yield torch.device(NAME, 0)


def _enter(self: torch.inference_mode) -> None:
    self.before = torch.is_grad_enabled()
    torch.set_grad_enabled(self.before and not self.mode)


def _leave(self: torch.inference_mode, *error: object) -> None:
    torch.set_grad_enabled(self.before)


@contextmanager
def counted() -> Iterator[Traffic]:
    """Counts inside this context."""
    traffic = Traffic()
    _traffic.append(traffic)
    try:
        yield traffic
    finally:
        _traffic.remove(traffic)
