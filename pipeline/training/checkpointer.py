"""Saves and restores training runs: small states at once, large ones while training continues (docs/training.md).

A CPU copies the state at once, a GPU beside the next step up to its update; a thread then writes the copy.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint import HuggingFaceStorageReader
from torch.distributed.checkpoint._hf_utils import CUSTOM_METADATA_KEY, DTYPE_MAP, SAVED_OFFSETS_KEY
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.tensor import DTensor

from models.weights_file import state_dict_diff
from pipeline.training.checkpoint_folder import FORMAT, CheckpointFolder
from pipeline.training.config import CHECKPOINTS, METRICS_LOG
from pipeline.training.optimizer import Ema
from pipeline.training.ranks import Ranks
from pipeline.training.settings import TrainingSettings
from storage.errors import FatalError

_KINDS = {kind: name for name, kind in DTYPE_MAP.items()}
_ALIGNMENT = 64


def file_image(tensors: Mapping[str, Tensor], memory: Tensor) -> Tensor:
    """Copies tensors, of sharded ones the part of this process, into the bytes of a safetensors file.

    The header also says where each tensor belongs in the whole, in the format of torch.distributed.checkpoint, whose
    reader puts the parts together. The bytes lie in `memory`, which an earlier call returned, if they fit there. From a
    GPU, they are there once its current stream is done.
    """
    parts = {name: part for name, tensor in tensors.items() if (part := _part(tensor))[0].numel()}
    header, places, size = _layout(parts)
    on_gpu = any(tensor.is_cuda for tensor, _ in parts.values())  # which copies in the background from pinned memory
    image = memory[:size] if size <= len(memory) else torch.empty(size, dtype=torch.uint8, pin_memory=on_gpu)
    image[: len(header)] = torch.frombuffer(bytearray(header), dtype=torch.uint8)
    for name, (first, last) in places.items():
        tensor = parts[name][0]
        image[first:last].view(tensor.dtype).view(tensor.shape).copy_(tensor, non_blocking=True)
    return image


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
    # The format allows spaces at the end of the header; they align the data.
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)
    header = len(text).to_bytes(8, "little") + text
    shifted = {name: (len(header) + first, len(header) + last) for name, (first, last) in places.items()}
    return header, shifted, len(header) + place


_MODEL, _FIRST, _SECOND, _STEPS, _EMA = "model.", "exp_avg.", "exp_avg_sq.", "steps.", "ema."


class TrainingState:
    """The tensors of one process that the next step depends on, by name.

    `model.`: parameters and buffers; `exp_avg.`, `exp_avg_sq.` and `steps.`: AdamW's state of a parameter; `ema.`:
    averages. All are views of what the trainer works with, so that reading changes them in place.
    """

    def __init__(self, network: nn.Module, optimizer: torch.optim.AdamW, ema: Ema | None) -> None:
        self._network, self._optimizer, self._ema = network, optimizer, ema

    def tensors(self, rank: int) -> dict[str, Tensor]:
        """Returns what this process has to write: its parts of sharded tensors and, as rank 0, all others."""
        tensors = self._network_tensors()
        for name, parameter in self._network.named_parameters():
            if state := self._optimizer.state.get(parameter):
                tensors |= {_FIRST + name: state["exp_avg"], _SECOND + name: state["exp_avg_sq"]}
                tensors[_STEPS + name] = state["step"].reshape(1)
        return {name: value for name, value in tensors.items() if rank == 0 or isinstance(value, DTensor)}

    def load(self, folder: Path) -> None:
        """Reads a checkpoint of any number of processes, sharded or not.

        Raises ValueError for a checkpoint of a different network.
        """
        reader = HuggingFaceStorageReader(str(folder))
        there = reader.read_metadata().state_dict_metadata
        tensors = self._network_tensors()
        self._require_same(there, tensors)
        steps: dict[Tensor, Tensor] = {}
        for name, parameter in self._network.named_parameters():
            if _FIRST + name not in there:
                continue
            averages = {kind: torch.zeros_like(parameter) for kind in ("exp_avg", "exp_avg_sq")}
            steps[parameter] = torch.zeros(1, device=parameter.device)
            tensors |= {_FIRST + name: averages["exp_avg"], _SECOND + name: averages["exp_avg_sq"]}
            tensors[_STEPS + name] = steps[parameter]
            # A fused kernel reads the number of steps on the device of the weights.
            self._optimizer.state[parameter] = {"step": steps[parameter].reshape(()), **averages}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")
            dcp.load(tensors, storage_reader=reader, no_dist=True)

    def _network_tensors(self) -> dict[str, Tensor]:
        # A scalar as a vector, since the safetensors reader can't read a part of a scalar
        named = self._network.state_dict().items()
        state = {_MODEL + name: value if value.dim() else value.reshape(1) for name, value in named}
        if self._ema is not None:
            state |= {_EMA + name: value for name, value in self._ema.averages.items()}
        return state

    def _require_same(self, there: Mapping[str, object], own: Mapping[str, Tensor]) -> None:
        saved = {
            name: tuple(about.size)
            for name, about in there.items()
            if name.startswith((_MODEL, _EMA)) and isinstance(about, TensorStorageMetadata)
        }
        if wrong := state_dict_diff(saved, {name: tuple(value.shape) for name, value in own.items()}, {}):
            raise ValueError(f"it belongs to a different network than the settings describe: {'; '.join(wrong)}")


MIB = 2**20


class Checkpointer:
    """The checkpoints of one training run. A failed write never stops it: the next checkpoint is another try."""

    def __init__(
        self,
        state: TrainingState,
        settings: TrainingSettings,
        work: Path,
        ranks: Ranks,
        parts: int,
        warn: Callable[[str], None],
    ) -> None:
        """`parts`: number of processes, from rank 0 on, that hold the whole state between them; `warn` receives a
        sentence for people when a checkpoint could not be written or is damaged."""
        self._state, self._settings, self._ranks, self._warn = state, settings, ranks, warn
        self._folder = CheckpointFolder(work / CHECKPOINTS)
        self._parts = parts
        self._image = torch.empty(0, dtype=torch.uint8)
        # On a CPU, streams and events exist, but do nothing.
        self._device: Any = torch.get_device_module(ranks.device)
        self._copied = self._device.Event()
        # A thread is enough, because writing and checksums release the GIL. Left on the first GPU, where threads begin,
        # its wait for the copy would create a CUDA context there for each rank.
        self._thread = ThreadPoolExecutor(1, "checkpoint", self._device.set_device, (ranks.device,))
        self._writing: tuple[int, Future[None]] | None = None
        self.waited = 0.0
        """Seconds for which the training run waited for checkpoints."""
        self.written: int | None = None
        """Step of the newest checkpoint."""

    def steps(self) -> Iterator[int]:
        """Yields the steps that have a checkpoint, newest first. The folder is not read before the first is taken."""
        yield from self._folder.steps()

    def load(self) -> dict[str, Any] | None:
        """Restores the newest undamaged checkpoint. Returns what `save` took as `about`; None if there is none.

        Damaged ones are reported and renamed. Raises `FatalError` for one of a different network or version.
        """
        chosen, record, complaints = self._ranks.agreed(self._choose() if self._ranks.rank == 0 else (0, {}, []))
        for complaint in complaints if self._ranks.rank == 0 else ():
            self._warn(complaint)
        if not record:
            return None
        path = self._folder.path(chosen)
        if record["format"] != FORMAT:
            raise FatalError(
                f"{path}: has checkpoint format {record['format']}, but this version reads {FORMAT}; remove the "
                "folder to train from the beginning"
            )
        try:
            self._state.load(path)
        except ValueError as error:
            raise FatalError(f"{path}: {error}; remove it to train from the beginning") from error
        self.written = chosen
        about: dict[str, Any] = record["about"]
        return about

    def _choose(self) -> tuple[int, dict[str, Any], list[str]]:
        self._folder.discard_unfinished()
        complaints: list[str] = []
        for step in self._folder.steps():
            try:
                return step, self._folder.record(step), complaints
            except ValueError as error:
                complaints.append(f"checkpoint {self._folder.path(step).name} is damaged and ignored: {error}")
                self._folder.set_aside(step)
        if complaints:
            complaints.append("every checkpoint is damaged: training from the beginning")
        return 0, {}, complaints

    def save(self, step: int, about: dict[str, Any], spared: int | None = None) -> None:
        """Begins to copy the state, which a thread writes while the training run continues. It only waits for an
        unfinished earlier write. `wait_for_copy` must be called before the state changes.

        `spared`: step whose checkpoint is kept, however old.
        """
        self.finish()
        if self._ranks.rank >= self._parts:
            return
        started = time.monotonic()
        beside = self._device.Stream()
        beside.wait_stream(self._device.current_stream())
        try:
            with self._device.stream(beside):
                self._image = file_image(self._state.tensors(self._ranks.rank), self._image)
            self._copied.record(beside)
        except RuntimeError as error:  # torch's for memory that it can't allocate
            self._give_up(step, f"no memory for a copy of the weights: {error}")
        else:
            self._writing = step, self._thread.submit(self._write, step, about, spared)
            if self._settings.network.backbone_norm == "batch":  # whose statistics the next forward pass changes
                self.wait_for_copy()
        self.waited += time.monotonic() - started
        if len(self._image) < self._settings.write_aside * MIB:
            self.finish()

    def wait_for_copy(self) -> None:
        """Lets the device, not this process, wait until the state is copied."""
        self._copied.wait()

    def finish(self) -> None:
        """Waits until the write under way is done, and warns if it failed."""
        if self._writing is None:
            return
        (step, write), self._writing = self._writing, None
        started = time.monotonic()
        try:
            write.result()
            self.written = step
        except OSError as error:
            self._give_up(step, f"{error.strerror or error}: {error.filename or self._folder.path(step)}")
        self.waited += time.monotonic() - started

    def close(self) -> None:
        """Waits for the write under way and frees the memory."""
        self.finish()
        self._thread.shutdown()
        self._image = torch.empty(0, dtype=torch.uint8)

    def _write(self, step: int, about: dict[str, Any], spared: int | None) -> None:
        """Raises OSError, and TimeoutError when the part of another process is missing."""
        self._copied.synchronize()
        self._folder.write_part(step, self._ranks.rank, self._parts, self._image.numpy().data)
        if self._ranks.rank == 0:
            self._folder.complete(step, self._parts, about, [METRICS_LOG])
            self._folder.prune(self._settings.keep_checkpoints, self._settings.milestone_every, spared)

    def _give_up(self, step: int, why: str) -> None:
        self._folder.give_up(step, self._ranks.rank, self._parts)
        last = f"the last one is of step {self.written}" if self.written else "there is no earlier one"
        self._warn(f"the checkpoint of step {step} could not be written ({why}); {last}")
