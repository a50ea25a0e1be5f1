"""`rlip doctor --device` goes on after a check that hangs, crashes or fails, and its end says what is not fit."""

import json
import os
import signal
import time

import pytest
import torch
from rlip_command import rlip

from models import deformable_attention
from pipeline.run import device_doctor, device_networks
from pipeline.run.device_doctor import CHECKS, examine_device, outcome_of
from pipeline.run.device_outcome import CheckOutcome, compared
from pipeline.training.ranks import Ranks

CPU = torch.device("cpu")


def hangs(device: torch.device) -> CheckOutcome:
    time.sleep(60)
    raise AssertionError


def crashes(device: torch.device) -> CheckOutcome:
    os.kill(os.getpid(), signal.SIGKILL)


def fails(device: torch.device) -> CheckOutcome:
    raise RuntimeError("CUDA error: an illegal memory access was encountered\nmore")


def passes(device: torch.device) -> CheckOutcome:
    return CheckOutcome("1 TFLOP/s")


FAULTY = {"crashes": crashes, "fails": fails, "passes": passes}


def test_each_check_has_its_own_process():
    lines = {line.name: line.outcome for line in examine_device(CPU, 10, FAULTY)}
    assert lines["crashes"].state == "failed" and "ended with -9" in lines["crashes"].figure
    assert lines["fails"].figure == "RuntimeError: CUDA error: an illegal memory access was encountered"
    assert lines["passes"] == CheckOutcome("1 TFLOP/s")


@pytest.mark.parametrize("work, reason", [("breaks", "ValueError: no such link"), ("asserts", "AssertionError")])
def test_what_failed_in_one_of_several_processes_is_named(monkeypatch, work, reason):
    monkeypatch.setattr(device_doctor, "_share", globals()[work])
    assert outcome_of(device_doctor.sharing, CPU).figure == f"RuntimeError: {reason}"


def breaks(ranks: Ranks) -> list[float]:
    raise ValueError("no such link\nmore")


def asserts(ranks: Ranks) -> list[float]:
    raise AssertionError


def test_a_check_that_hangs_is_cut_and_others_follow():
    hung, *others = examine_device(CPU, 0.05, {"hangs": hangs, **FAULTY})
    assert hung.outcome.state == "failed" and "stopped after" in hung.outcome.figure
    assert [line.name for line in others] == list(FAULTY)


def test_what_has_no_time_left_is_named():
    assert [line.outcome.figure for line in examine_device(CPU, 0.0, FAULTY)] == ["no time was left"] * 3


@pytest.mark.parametrize("as_json", [False, True])
def test_the_command_ends_with_what_is_not_fit(monkeypatch, as_json):
    monkeypatch.setattr(device_doctor.examine_device, "__defaults__", ({"fails": fails, "versions": passes}, None))
    done = rlip("doctor", "--device", *["--json"] * as_json)
    assert done.exit_code == 1 and "not fit for training: fails" in done.stderr
    if as_json:
        assert [json.loads(line)["state"] for line in done.stdout.splitlines()] == ["failed", "ok"]
    else:
        assert "cpu: 1 failed, 1 ok" in done.stdout


def test_it_takes_a_recipe_or_the_device():
    for words in ((), ("demo", "--device"), ("--device", "--set", "a=1")):
        assert "name a recipe, or use --device alone" in rlip("doctor", *words).stderr


def test_outputs_unlike_the_recorded_ones_are_wrong(monkeypatch):
    assert outcome_of(CHECKS["ParSeD"], CPU).state == "ok"
    read = deformable_attention.read_on_cpu
    monkeypatch.setattr(deformable_attention, "read_on_cpu", lambda *inputs: read(*inputs) * 1.001)
    assert outcome_of(CHECKS["ParSeD"], CPU).state == "wrong"


def test_a_result_that_is_no_number_is_wrong_behind_one_that_is_near():
    near, none = torch.tensor([1.0]), torch.tensor([torch.nan])
    assert not compared([near, none], [near, none], [near * 1.001, near])[0]
    assert compared([near], [near], [near])[0]


def test_waits_are_the_share_of_the_time_without_images(monkeypatch):
    def images(photos, ahead):
        for _ in photos:
            clock[0] += 1
            yield torch.zeros(3, 2, 2)

    def work(pixels):
        clock[0] += 6

    clock = [0]
    monkeypatch.setattr(device_networks, "perf_counter", lambda: clock[0])
    assert device_networks._waits(work, 2, (2, 2), images, CPU) == 3 * 2 / (3 * 2 + 4 * 6)
