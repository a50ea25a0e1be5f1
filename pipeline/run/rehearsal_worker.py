"""One process of a rehearsed training run: it times the parts of its steps, and dies once where a file asks for it."""

from __future__ import annotations

import json
import os
import signal
import time
import warnings
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from transformers import PreTrainedModel

from models.backbone import Backbone
from models.decoder import Decoder
from models.encoder import Encoder
from models.losses import SetCriterion, TaggerCriterion
from pipeline.runtime.devices import choose_device
from pipeline.training import worker
from pipeline.training.checkpoint_folder import CheckpointFolder
from pipeline.training.config import CHECKPOINTS, TrainConfig

DIES = "dies"
"""File of the work folder that holds the step after which the last rank dies, once there is a checkpoint."""
MEASURED = "measured.json"
"""File of what rank 0 measured in the second half of its steps: seconds by part, waits by line, device, memory."""
MODULES: dict[type[nn.Module], str] = {
    PreTrainedModel: "texts",
    Backbone: "backbone",
    Encoder: "encoder",
    Decoder: "decoders",
    SetCriterion: "matching and loss",
    TaggerCriterion: "loss",
}
PATIENCE = 120.0
"""Seconds that the rank that is to die waits for a checkpoint."""


class Watch:
    """Notes when each part of a step ends; on a GPU, when it ends in the GPU's queue, without waiting for it."""

    def __init__(self, config: TrainConfig) -> None:
        self._work, self._half = config.work, (config.settings.steps or 0) // 2
        self._is_on_gpu = choose_device(config.settings.device).type == "cuda"
        self._steps = 0
        self._ends: list[tuple[str, Any]] = []
        self._waits: Counter[str] = Counter()
        register_optimizer_step_pre_hook(lambda *_: self._end("backward"))
        register_optimizer_step_post_hook(self._updated)
        if not config.settings.compile:  # hooks would break its graphs
            register_module_forward_pre_hook(self._enter)
            register_module_forward_hook(self._leave)

    def found(self) -> dict[str, Any]:
        """Returns the content of `MEASURED`."""
        if self._is_on_gpu:
            torch.cuda.synchronize()
        parts: Counter[str] = Counter()
        for (_, began), (part, ended) in pairwise(self._ends):
            parts[part] += began.elapsed_time(ended) / 1000 if self._is_on_gpu else ended - began
        return {
            "parts": dict(parts.most_common()),
            "waits": dict(self._waits.most_common()),
            "device": torch.cuda.get_device_name() if self._is_on_gpu else "CPU",
            "reserved_gib": torch.cuda.max_memory_reserved() / 2**30 if self._is_on_gpu else 0.0,
        }

    def _end(self, part: str) -> None:
        moment: Any = time.perf_counter()
        if self._is_on_gpu:
            moment = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            moment.record()
        self._ends.append((part, moment))

    def _enter(self, module: nn.Module, _inputs: object) -> None:
        if isinstance(module, tuple(MODULES)):
            begins = not self._ends or self._ends[-1][0] == "update"
            self._end("data and copies" if begins else "rest of the forward pass")

    def _leave(self, module: nn.Module, _inputs: object, _outputs: object) -> None:
        if isinstance(module, tuple(MODULES)):
            self._end(next(part for kind, part in MODULES.items() if isinstance(module, kind)))

    def _updated(self, *_: object) -> None:
        self._end("update")
        self._steps += 1
        if self._steps == self._half:
            del self._ends[:-1]
            if self._is_on_gpu:
                warnings.simplefilter("always")
                warnings.showwarning = self._warned  # type: ignore[assignment]
                torch.cuda.set_sync_debug_mode("warn")
        is_last = int(os.environ["RANK"]) == int(os.environ["WORLD_SIZE"]) - 1
        if is_last and (order := self._work / DIES).is_file() and int(order.read_text()) == self._steps:
            order.unlink()
            checkpoints, until = CheckpointFolder(self._work / CHECKPOINTS), time.monotonic() + PATIENCE
            while not checkpoints.steps() and time.monotonic() < until:
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)

    def _warned(self, message: Warning | str, kind: type[Warning], file: str, line: int, *_: object) -> None:
        self._waits[f"{Path(file).name}:{line}"] += "called a synchronizing" in str(message)


def main(path: Path) -> int:
    """Trains as the configuration says. Returns the exit code."""
    config = TrainConfig.model_validate_json(path.read_bytes())
    watch = Watch(config)
    code = worker.main(path)
    if os.environ["RANK"] == "0" and not code:
        (config.work / MEASURED).write_text(json.dumps(watch.found()))
    return code
