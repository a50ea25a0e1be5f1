"""`rlip doctor --device` on another device: every line runs, and a fault turns exactly its lines red."""

import os
from collections.abc import Callable

import pytest
import torch

from models import deformable_attention
from models.deformable_read_triton import OFF
from models.relation_tagger import PairQueries, RelationTagger
from pipeline.run import device_doctor, device_networks, device_outcome, device_reading
from pipeline.run.device_doctor import CHECKS, READS, examine_device, outcome_of
from pipeline.run.device_outcome import CheckOutcome
from pipeline.training.ranks import Ranks
from tests.device.standin import Event

Patch = pytest.MonkeyPatch


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Measures once, and keeps what checks set for a process of their own."""
    monkeypatch.setattr(device_outcome, "LEAST_SECONDS", 1e-9)
    monkeypatch.setattr(device_networks, "BATCHES", 1)
    monkeypatch.setenv("RLIP_TRITON", "")


@pytest.fixture
def lines(device) -> Callable[..., dict[str, CheckOutcome]]:
    """Runs checks of the doctor in this process, by default all. Returns what each found."""
    return lambda checks=CHECKS: {
        line.name: line.outcome
        for line in examine_device(device, 60, checks, lambda check, on, _: outcome_of(check, on))
    }


def red(found: dict[str, CheckOutcome]) -> dict[str, str]:
    """The lines that say that something is not right, and their states. torch.compile knows no stand-in."""
    assert found.pop("torch.compile").state == "absent"
    return {name: outcome.state for name, outcome in found.items() if outcome.state != "ok"}


def test_every_line_runs(lines):
    found = lines()
    assert red(found) == {}
    assert all("on paper" in found[name].figure for name in READS)
    assert all("of the time spent waiting for JPEGs" in found[name].figure for name in ("captioning", "labelling"))
    assert "through 1, 2 and 1 processes, 0 of" in found["checkpoints"].figure
    assert not any(OFF in outcome.figure for outcome in found.values())


def in_another_order(patch: Patch) -> None:
    """The kernel adds every other time in another order, wherever it reads."""
    read, calls = device_reading.read, []

    def disordered(value, places, weights, shapes):
        calls.append(value)
        if os.environ["RLIP_TRITON"] == "0" or len(calls) % 2:
            return read(value, places, weights, shapes)
        first = torch.zeros_like(weights)
        first[..., ::2] = weights[..., ::2]
        return read(value, places, first, shapes) + read(value, places, weights - first, shapes)

    for module in (device_reading, deformable_attention):
        patch.setattr(module, "read", disordered)


def pairs_on_the_host(patch: Patch) -> None:
    decode = RelationTagger.decode

    def misplaced(self, encoded, queries):
        return decode(self, encoded, PairQueries(*(each.cpu() for each in vars(queries).values())))

    patch.setattr(RelationTagger, "decode", misplaced)


def copy_not_waited_for(patch: Patch) -> None:
    patch.setattr(Event, "synchronize", lambda self: None)


def a_rank_dies(patch: Patch) -> None:
    patch.setattr(device_doctor, "_share", dies)


def dies(ranks: Ranks) -> list[float]:
    """The work of a rank, of which the last dies while the others wait for it."""
    if ranks.rank == ranks.count - 1:
        os._exit(3)
    return [float(ranks.summed(torch.ones(1)))]


SUMS = READS.keys() - {"deformable attention, no query"}
FAULTS: dict[Callable[[Patch], None], dict[str, tuple[str, str]]] = {
    in_another_order: dict.fromkeys(SUMS, ("wrong", "from itself")),
    pairs_on_the_host: {"R-Tagger": ("failed", "on one device"), "labelling": ("failed", "on one device")},
    copy_not_waited_for: {"checkpoints": ("wrong", "tensors differ")},
    a_rank_dies: {"DDP and FSDP2": ("failed", "exit code 3")},
}
"""Faults that concern lines of their own, each with the states and words that they give these."""
LONG_AND_SOUND = ("training step", "several processes", "captioning")
"""Lines that take long and that no fault concerns."""


def test_faults_turn_exactly_their_lines_red_and_what_follows_a_wrong_kernel_runs_without_it(lines, monkeypatch):
    for fault in FAULTS:
        fault(monkeypatch)
    expected = {name: told for lines_of in FAULTS.values() for name, told in lines_of.items()}
    found = lines({name: check for name, check in CHECKS.items() if name not in LONG_AND_SOUND})
    assert red(found) == {name: state for name, (state, _) in expected.items()}
    assert all(words in found[name].figure for name, (_, words) in expected.items())
    unread = {name for name, outcome in found.items() if OFF in outcome.figure or outcome.state == "failed"}
    assert unread == found.keys() - {*list(CHECKS)[:3], *READS}
