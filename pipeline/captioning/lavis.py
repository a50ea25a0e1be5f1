"""BLIP in salesforce-lavis, which needs libraries of 2023: a worker in its own environment, fed through a pipe."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from multiprocessing import Pipe
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import torch

from pipeline.captioning.captioner import Caption, ImageInput
from pipeline.captioning.decoding import STEPS, uniforms
from pipeline.captioning.lavis_weights import read_weights
from pipeline.captioning.model_folder import find_lavis_model, find_lavis_python
from pipeline.captioning.network import CLIP_DEVIATION, CLIP_MEAN, squared
from pipeline.captioning.settings import CaptionSettings
from pipeline.runtime.stage import Rejected
from storage.errors import FatalError, RetryableError

WORKER = Path(__file__).with_name("lavis_worker.py")
ATTEMPTS = 2
"""How many times a batch that kills its worker is tried."""
_SENT = {
    "decoding", "top_p", "top_k", "temperature", "max_length", "min_length", "repetition_penalty", "prompt",
    "num_beams",
}  # fmt: skip


class LavisCaptioner:
    """Captions with LAVIS's `BlipCaption`; decoding and noise are those of `BlipCaptioner`.

    The worker starts with the first batch, and again after it dies. Raises `FatalError` when environment, weights or
    vocabulary are missing or can't be loaded, and `RetryableError` when one batch kills the worker twice.
    """

    needs_images = True
    side = None

    def __init__(self, settings: CaptionSettings) -> None:
        self.rejects: list[Rejected] = []
        self._settings = settings
        self._weights, self._vocabulary = find_lavis_model(settings.model)
        self._python = find_lavis_python(settings.lavis_python)
        self._worker: _Worker | None = None

    def caption(self, images: Sequence[ImageInput], image_ids: Sequence[int]) -> list[list[Caption]]:
        """Caption each image, in the order of `images`: `draws` captions, or one with beam search."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                worker = self._worker = self._worker or self._started()
                answer = worker.ask(*self._message(worker.side, images, image_ids))
            except _Died as died:
                self.close()
                if attempt == ATTEMPTS:
                    raise RetryableError(
                        f"LAVIS's worker died {ATTEMPTS} times on images {image_ids[0]}…{image_ids[-1]} ({died}). If "
                        "it was killed for lack of memory, lower caption.batch_size or run.workers"
                    ) from None
                continue
            if "error" in answer:
                raise FatalError(f"LAVIS failed on images {image_ids[0]}…{image_ids[-1]}:\n{answer['error']}")
            return [self._captions(captions) for captions in answer["captions"]]
        raise AssertionError("unreachable")

    def close(self) -> None:
        """Stop the worker; the next batch starts another."""
        if self._worker is not None:
            self._worker.end()
            self._worker = None

    def _captions(self, captions: list[dict[str, Any]]) -> list[Caption]:
        settings = self._settings
        seed = settings.seed if settings.decoding == "nucleus" else None
        source = f"lavis blip {settings.decoding}"
        return [Caption(c["text"], draw, seed, c["log_probability"], source) for draw, c in enumerate(captions)]

    def _message(
        self, side: int, images: Sequence[ImageInput], image_ids: Sequence[int]
    ) -> tuple[dict[str, Any], bytes]:
        settings = self._settings
        noise = np.stack([uniforms(settings.seed, image_id, settings.draws) for image_id in image_ids])
        header = {"images": len(images), "side": side, "draws": settings.draws, "steps": STEPS}
        pixels_BHW3 = squared(images, side).permute(0, 2, 3, 1).to(torch.uint8).numpy()
        return header, pixels_BHW3.tobytes() + noise.tobytes()

    def _started(self) -> _Worker:
        # torch in the worker allocates whatever sizes a file claims.
        read_weights(self._weights)
        worker = _Worker(self._python)
        settings = self._settings.model_dump(mode="json", include=_SENT)
        files = {"weights": str(self._weights.resolve()), "vocabulary": str(self._vocabulary.resolve())}
        try:
            answer = worker.ask({**settings, **files, "mean": CLIP_MEAN, "deviation": CLIP_DEVIATION})
        except _Died as died:
            worker.end()
            raise FatalError(
                f"LAVIS's worker did not start ({died}). Rebuild its environment with `make lavis-env`"
            ) from None
        if "error" in answer:
            worker.end()
            raise FatalError(f"LAVIS can't load {self._weights}:\n{answer['error']}")
        worker.side = answer["side"]
        return worker


class _Died(Exception):
    """The worker ended without an answer; the message says how, with the end of its output."""


class _Worker:
    """One worker process."""

    side = 0
    """Side in pixels of the square image that its network takes."""

    def __init__(self, python: Path) -> None:
        # A file, since a pipe that nobody reads would block the worker once it is full
        self._output = TemporaryFile()  # noqa: SIM115 - closed by `end`
        self._channel, theirs = Pipe()
        with theirs:
            self._process = subprocess.Popen(
                [python, "-I", "-u", WORKER, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=self._output,
                env={**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"},
            )

    def ask(self, header: dict[str, Any], payload: bytes = b"") -> dict[str, Any]:
        """Send a message and wait for the answer. Raises `_Died` when none will come."""
        try:
            self._channel.send_bytes(json.dumps(header).encode())
            self._channel.send_bytes(payload)
            answer: dict[str, Any] = json.loads(self._channel.recv_bytes())
            return answer
        except (EOFError, OSError):
            raise _Died(self._how_it_ended()) from None

    def end(self) -> None:
        """Kill the process if it is alive, and wait for its end."""
        self._process.kill()
        self._process.wait()
        self._channel.close()
        self._output.close()

    def _how_it_ended(self) -> str:
        code = self._process.wait()
        self._output.seek(0)
        lines = self._output.read().decode(errors="replace").splitlines()[-20:]
        end = f"signal {-code}" if code < 0 else f"exit code {code}"
        return f"{end}; its output: {chr(10).join(lines) or 'nothing'}"
