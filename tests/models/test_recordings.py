"""Agreement with recordings of the authors' network, and with ours where those are absent."""

import json
import shutil

import numpy as np
import pytest
import torch

from benchmarks.parity import TOLERANCES, compare, differences, main
from benchmarks.recorded.measure import measure
from benchmarks.recorded.recording import Recording, recordings_in


def assert_agrees(recording: Recording) -> set[str]:
    """Returns the compared groups; fails and lists all values that differ too much."""
    found = list(differences(recording))
    assert not [difference for difference in found if not difference.holds]
    return {difference.group for difference in found}


@pytest.mark.parametrize("name", ["parseda_tiny", "parsed_tiny", "tagger_tiny"])
def test_the_authors_numbers(shared, name):
    compared = assert_agrees(Recording(shared / "oracle", name))
    assert compared == set(TOLERANCES) - ({"matches", "post-processing"} if name.startswith("tagger") else set())


@pytest.mark.parametrize("name", ["parseda_own", "parsed_own", "tagger_own"])
def test_our_numbers_stay(own, name):
    compared = assert_agrees(Recording(own, name))
    assert compared == set(TOLERANCES) - ({"matches", "post-processing"} if name.startswith("tagger") else set())


@pytest.mark.parametrize("weight", [
    "backbone.body.layer2.0.conv2.weight", "transformer.encoder.VLFuse_layers.1.b_attn.gamma_l",
    "transformer.verb_tgt_generator.fc_2.weight", "sub_bbox_embed.3.layers.2.bias",
])  # fmt: skip
def test_a_slightly_different_network_is_noticed(own, weight):
    recording = Recording(own, "parseda_own")
    with torch.no_grad():
        recording.network.get_parameter(weight).add_(0.01)
    given = recording.arrays("forward")
    beyond = [row for row in compare("forward", given, measure(recording, "forward", given)) if not row.holds]
    assert "activations" in {row.group for row in beyond}


def test_what_is_not_measured_or_no_number_does_not_pass():
    recorded = {"out.a": np.zeros(3, np.float32), "match.main.img0.src": np.arange(2), "loss_total": np.array(2.0)}
    rows = {row.group: row for row in compare("part", recorded, {"out.a": np.array([0, np.nan, 0], np.float32)})}
    assert all(row.largest == np.inf and not row.holds for row in rows.values()) and len(rows) == 3
    close = {"out.a": recorded["out.a"] + 9e-6, "match.main.img0.src": np.arange(2), "loss_total": np.array(2.00001)}
    assert all(row.holds for row in compare("part", recorded, close))
    broken = {**recorded, "out.a": np.array([0, np.nan, 0], np.float32)}
    assert all(row.holds for row in compare("part", broken, close))
    far = {"out.a": recorded["out.a"] + 2e-5, "match.main.img0.src": np.arange(2)[::-1], "loss_total": np.array(2.0001)}
    assert not any(row.holds for row in compare("part", recorded, far))


def test_the_command_tells_agreement_by_its_exit_code(own, tmp_path, capsys):
    for path in own.glob("tagger_own*"):
        shutil.copy(path, tmp_path / path.name.replace("tagger_own", "other"))
    assert recordings_in(tmp_path) == ["other"]
    assert main([str(tmp_path), "--json", str(tmp_path / "rows.json")]) == 0
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert rows and all(row["name"].startswith("other, ") and row["ours"] <= row["peer"] for row in rows)
    with np.load(tmp_path / "other_forward.npz") as file:
        arrays = {key: file[key] for key in file.files}
    arrays["out.pred_verb_logits"] = arrays["out.pred_verb_logits"] + 1e-3
    np.savez(tmp_path / "other_forward.npz", **arrays)
    assert main([str(tmp_path)]) == 1
    (beyond,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("other") and "BEYOND" in line)
    assert "out.pred_verb_logits" in beyond and "outputs" in beyond and "0.001" in beyond
