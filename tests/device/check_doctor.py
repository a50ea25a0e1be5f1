"""`rlip doctor --device` on another device: every line runs, and a fault turns its own lines red."""

from __future__ import annotations

import os

import pytest
import torch

from models.text_encoder import TextTokens
from pipeline.run import device_doctor, device_networks, device_outcome
from pipeline.run.device_doctor import CHECKS, outcome_of

READINGS = [name for name in CHECKS if name.startswith("deformable attention")]
NETWORKS = ["ParSeDA", "ParSeD", "R-Tagger", "training step"]


@pytest.fixture(autouse=True)
def timed_once(monkeypatch):
    monkeypatch.setattr(device_outcome, "LEAST_SECONDS", 1e-9)


def states(device: torch.device, names=tuple(CHECKS)) -> dict[str, str]:
    return {name: outcome_of(CHECKS[name], device).state for name in names}


def test_every_line_runs(device):
    found = states(device)
    assert {name for name, state in found.items() if state == "absent"} == {"torch.compile"}
    assert {state for name, state in found.items() if name != "torch.compile"} == {"ok"}


def test_a_reading_that_is_off_turns_the_readings_red(device, monkeypatch):
    read = device_networks.read
    monkeypatch.setattr(device_networks, "read", lambda *inputs: read(*inputs) * 1.001)
    found = states(device, ("versions", *READINGS[:2], "ParSeDA"))
    assert found == {"versions": "ok", READINGS[0]: "wrong", READINGS[1]: "wrong", "ParSeDA": "ok"}


def test_sums_in_another_order_each_time_are_seen(device, monkeypatch):
    read, calls = device_networks.read, []

    def other_order(value, *rest):
        calls.append(value)
        return read(value * (1 + len(calls) % 2 * 1e-7), *rest)

    monkeypatch.setattr(device_networks, "read", other_order)
    outcome = outcome_of(CHECKS[READINGS[1]], device)
    assert outcome.state == "wrong" and "from itself" in outcome.figure and "RLIP_TRITON=0" in outcome.advice


def test_an_operand_left_on_the_host_turns_the_networks_red(device, monkeypatch):
    monkeypatch.setattr(TextTokens, "to", lambda self, device: self)
    assert states(device, (READINGS[1], *NETWORKS)) == {READINGS[1]: "ok"} | dict.fromkeys(NETWORKS, "failed")


def test_a_forgotten_wait_turns_the_outputs_red(device, monkeypatch):
    values = device_networks._values
    monkeypatch.setattr(
        device_networks, "_values", lambda found: [each.to("cpu", non_blocking=True) for each in values(found)]
    )
    assert states(device, (READINGS[2], "ParSeDA")) == {READINGS[2]: "ok", "ParSeDA": "failed"}


def test_a_process_that_dies_turns_its_line_red(device, monkeypatch):
    monkeypatch.setattr(device_doctor, "_rank", die)
    found = outcome_of(CHECKS["several processes"], device)
    assert found.state == "failed" and "exit code 3" in found.figure


def die(rank: int, *rest: object) -> None:
    os._exit(3)
