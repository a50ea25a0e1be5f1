"""Agreement with recordings of the authors' network, and with ours where those are absent."""

import json
import shutil
import sys

import numpy as np
import pytest
import torch

from benchmarks.parity import OWN, TOLERANCES, beyond, compare, differences, main
from benchmarks.recorded.measure import measure
from benchmarks.recorded.recording import Recording, recordings_in


def assert_agrees(recording: Recording) -> set[str]:
    """Returns the compared groups; fails and lists all values that differ too much."""
    found = differences(recording)
    assert not {part: each for part, each in found.items() if beyond(each)}
    return set().union(*found.values())


@pytest.mark.parametrize("name", ["parseda_tiny", "parsed_tiny", "tagger_tiny"])
def test_the_authors_numbers(shared, name):
    compared = assert_agrees(Recording(shared / "oracle", name))
    assert compared == set(TOLERANCES) - ({"matches", "post-processing"} if name.startswith("tagger") else set())


@pytest.mark.parametrize("name", ["parseda_own", "parsed_own", "tagger_own"])
def test_our_numbers_stay(name):
    compared = assert_agrees(Recording(OWN, name))
    assert compared == set(TOLERANCES) - ({"matches", "post-processing"} if name.startswith("tagger") else set())


@pytest.mark.parametrize("weight", [
    "backbone.body.layer2.0.conv2.weight", "transformer.encoder.VLFuse_layers.1.b_attn.gamma_l",
    "transformer.verb_tgt_generator.fc_2.weight", "sub_bbox_embed.3.layers.2.bias",
])  # fmt: skip
def test_a_slightly_different_network_is_noticed(weight):
    recording = Recording(OWN, "parseda_own")
    with torch.no_grad():
        recording.network.get_parameter(weight).add_(0.01)
    given = recording.arrays("forward")
    assert "activations" in beyond(compare(given, measure(recording, "forward", given)))


def test_what_is_not_measured_or_no_number_does_not_pass():
    recorded = {"out.a": np.zeros(3, np.float32), "match.main.img0.src": np.arange(2), "loss_total": np.array(2.0)}
    found = compare(recorded, {"out.a": np.array([0, np.nan, 0], np.float32)})
    assert all(largest == np.inf for largest, _ in found.values()) and len(beyond(found)) == len(found) == 3
    close = {"out.a": recorded["out.a"] + 9e-6, "match.main.img0.src": np.arange(2), "loss_total": np.array(2.00001)}
    assert not beyond(compare(recorded, close))
    broken = {**recorded, "out.a": np.array([0, np.nan, 0], np.float32)}
    assert not beyond(compare(broken, close))
    far = {"out.a": recorded["out.a"] + 2e-5, "match.main.img0.src": np.arange(2)[::-1], "loss_total": np.array(2.0001)}
    assert len(beyond(compare(recorded, far))) == 3


def test_the_command_tells_agreement_by_its_exit_code(tmp_path, capsys, monkeypatch):
    for path in OWN.glob("tagger_own*"):
        shutil.copy(path, tmp_path / path.name.replace("tagger_own", "other"))
    assert recordings_in(tmp_path) == ["other"]
    monkeypatch.setattr(sys, "argv", ["parity", str(tmp_path), "--json", str(tmp_path / "rows.json")])
    assert main() == 0
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert rows and all(row["name"].startswith("other, ") and row["ours"] <= row["peer"] for row in rows)
    with np.load(tmp_path / "other_forward.npz") as file:
        arrays = {key: file[key] for key in file.files}
    arrays["out.pred_verb_logits"] = arrays["out.pred_verb_logits"] + 1e-3
    np.savez(tmp_path / "other_forward.npz", **arrays)
    assert main() == 1
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "BEYOND" in line)
    assert "out.pred_verb_logits" in line and "outputs" in line and "0.001" in line
