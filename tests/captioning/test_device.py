"""Where a captioner runs: the choice of device, and that every tensor follows the network there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from pipeline.captioning.blip import BlipCaptioner
from pipeline.captioning.settings import CaptionSettings
from pipeline.runtime.devices import choose_device
from storage.errors import FatalError


def with_gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


@pytest.mark.parametrize(
    ("setting", "gpus", "worker", "expected"),
    [
        ("auto", 0, 3, "cpu"), ("auto", 2, 0, "cuda:0"), ("auto", 2, 1, "cuda:1"), ("auto", 2, 2, "cuda:0"),
        ("cpu", 2, 1, "cpu"), ("cuda", 4, 6, "cuda:2"), ("cuda:1", 2, 0, "cuda:1"), ("cuda:1", 2, 5, "cuda:1"),
    ],
)  # fmt: skip
def test_workers_share_the_gpus_in_turn(
    monkeypatch: pytest.MonkeyPatch, setting: str, gpus: int, worker: int, expected: str
) -> None:
    with_gpus(monkeypatch, gpus)
    assert choose_device(setting, worker) == torch.device(expected)


@pytest.mark.parametrize(("setting", "gpus", "there"), [("cuda", 0, "none"), ("cuda:2", 2, "cuda:0 to cuda:1")])
def test_a_gpu_that_is_not_there_stops(
    monkeypatch: pytest.MonkeyPatch, blip_folder: Path, setting: str, gpus: int, there: str
) -> None:
    with_gpus(monkeypatch, gpus)
    with pytest.raises(FatalError, match=rf"'{setting}': .*no such GPU \(available: {there}\).*'auto' or 'cpu'"):
        BlipCaptioner(CaptionSettings(model=str(blip_folder), device=setting))


def test_the_device_is_in_no_key_and_is_checked_when_read() -> None:
    assert CaptionSettings(device="cuda:1").row_settings() == CaptionSettings(device="cpu").row_settings()
    for wrong in ("gpu", "cuda:", "cuda:x", "mps"):
        with pytest.raises(ValidationError, match="device"):
            CaptionSettings(device=wrong)
    with pytest.raises(ValidationError, match="'lavis' runs on the CPU only"):
        CaptionSettings(captioner="lavis", device="cuda")
