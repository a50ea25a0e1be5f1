"""`rlip weights` as users see it."""

import argparse
import json
from dataclasses import replace
from functools import partial

import pytest
import torch
from rlip_command import PLAIN, output_of, rlip
from safetensors.torch import load_file, save_file

from benchmarks.parity import OWN
from benchmarks.recorded.recording import Recording
from models import weights
from models.config import NetworkConfig, TextConfig
from tests.detector_checkpoint import converted, detector

TAGGER, PARSED = OWN / "tagger_own.safetensors", OWN / "parsed_own.safetensors"
OF_TAGGER = ("--args", OWN / "tagger_own_args.json", "--set", "text.heads=2")
OF_PARSED = ("--args", OWN / "parsed_own_args.json", "--set", "text.heads=2")


rlip_weights = partial(rlip, "weights")


def test_what_became_of_every_parameter_is_reported(tmp_path):
    out = tmp_path / "ours.safetensors"
    done = rlip_weights("import", TAGGER, out, *OF_TAGGER)
    assert done.exit_code == 0 and list(tmp_path.iterdir()) == [out]
    rows = [line.split() for line in done.stdout.splitlines()]
    assert "R-Tagger" in done.stdout and "transformer.ho_encoder (" in done.stdout
    assert ["expected", "to", "be", "new", "0", "none"] in rows
    assert ["not", "imported", "1", "query_embed.weight"] in rows
    assert next(row for row in rows if row[:1] == ["loaded"])[1] == str(len(load_file(TAGGER)) - 1)
    parsed = json.loads(rlip_weights("import", TAGGER, out, *OF_TAGGER, "--json").stdout)
    assert parsed["expected_new"] == [] and parsed["left_out"] == ["query_embed.weight"]
    assert parsed["kind"] == "R-Tagger" and parsed["settings"]["gate"] == "GLIP" and "bias_obj_a" in parsed["loaded"]


def test_what_does_not_fit_stops_before_anything_is_written(tmp_path):
    file, out = tmp_path / "in.safetensors", tmp_path / "out.safetensors"
    save_file(load_file(TAGGER) | {"stranger.weight": torch.zeros(2)}, str(file))
    done = rlip_weights("import", file, out, *OF_TAGGER)
    assert done.exit_code == 1 and "unexpected: stranger.weight" in done.output and "Traceback" not in done.output
    assert not out.exists()


def test_weights_are_exported_and_imported_again(tmp_path):
    ours, theirs, again = (tmp_path / name for name in ("ours.safetensors", "theirs.pth", "again.safetensors"))
    assert rlip_weights("import", TAGGER, ours, *OF_TAGGER).exit_code == 0
    done = rlip_weights("export", ours, theirs)
    assert done.exit_code == 0 and "R-Tagger" in done.stdout and "fusion_width" in done.stdout, done.output
    told = json.loads(rlip_weights("export", ours, theirs, "--json").stdout)
    assert told["kind"] == "R-Tagger" and told["args"]["gating_mechanism"] == "GLIP" and told["notes"]
    assert set(told["written"]) == set(torch.load(theirs, weights_only=True)["model"])
    assert rlip_weights("import", theirs, again, "--set", "text.heads=2").exit_code == 0
    first, second = load_file(ours), load_file(again)
    assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_a_network_that_the_authors_do_not_have_is_not_exported(tmp_path):
    ours = tmp_path / "ours.safetensors"
    weights.save(weights.build(replace(Recording(OWN, "parseda_own").config, fusion="none"), None), ours)
    done = rlip_weights("export", ours, tmp_path / "theirs.pth")
    assert done.exit_code == 1 and "fusion='none'" in done.output and "Traceback" not in done.output
    assert list(tmp_path.iterdir()) == [ours]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("import", "none.pth", "new.safetensors"), "no checkpoint at none.pth"),
        (("import", TAGGER, OWN), "is a folder"),
        (("import", TAGGER, "new.safetensors", "--set", "gate"), "write NAME=VALUE"),
        (("import", TAGGER, "new.safetensors"), "cannot infer heads, gate"),
        (("export", "none", "new.pth"), "no weights at none"),
        (("export", TAGGER, "new.pth"), "this project did not write the file"),
        (("export", TAGGER, TAGGER), "the input file"),
        (("show", "none"), "no weights at none"),
        (("show", OWN / "tagger_own_args.json"), "not a readable PyTorch checkpoint"),
    ],
)
def test_mistakes_are_one_message(words, message):
    done = rlip_weights(*words)
    assert done.exit_code == 1 and message in done.output and "Traceback" not in done.output


def test_files_are_shown(tmp_path):
    done = rlip_weights("show", PARSED)
    assert done.exit_code == 0 and "RLIPv2-ParSeD checkpoint" in done.stdout
    assert "transformer.ho_decoder" in done.stdout
    out = tmp_path / "ours.safetensors"
    assert rlip_weights("import", PARSED, out, *OF_PARSED).exit_code == 0
    done = rlip_weights("show", out)
    assert "weights of this project" in done.stdout and "text.heads" in done.stdout and "MBF" in done.stdout
    parsed = json.loads(rlip_weights("show", out, "--json").stdout)
    state = weights.load(out, None).state_dict()
    assert sum(parsed["values"].values()) == sum(value.numel() for value in state.values())
    assert parsed["settings"]["relation_queries"] == "MBF" and parsed["settings"]["official_compat"] is True
    assert "weights of this project" in rlip_weights("show", "demo-detector").stdout


def test_a_path_is_printed_in_one_line_however_narrow_the_terminal(monkeypatch):
    monkeypatch.setitem(PLAIN, "COLUMNS", "20")
    assert f"{PARSED}: RLIPv2-ParSeD checkpoint of the authors, " in rlip_weights("show", PARSED).stdout


SMALL_TEXTS = {"hidden": 64, "layers": 1, "heads": 2, "feedforward": 64, "vocabulary": 64, "max_positions": 16}
"""No detector has a text encoder: a small one keeps what is written small."""


def test_a_published_detector_and_its_conversion_are_imported(tmp_path):
    """`models/test_import.py` compares the values."""
    config = NetworkConfig(
        decoder_layers=6, fusion_interval=1, pairs=150, text=TextConfig(**SMALL_TEXTS), official_compat=True
    )
    state = detector(config)
    both = converted(state)
    assert (len(state), len(both)) == (604, 1281), "as many as in the published file and its conversion"
    out = tmp_path / "ours.safetensors"
    torch.save({"model": both, "args": argparse.Namespace(dropout=0.0, nheads=8)}, tmp_path / "theirs_converted.pth")
    words = [word for name, size in SMALL_TEXTS.items() for word in ("--set", f"text.{name}={size}")]
    told = json.loads(output_of("weights", "import", tmp_path / "theirs_converted.pth", out, "--json", *words))
    assert told["kind"] == "DAB-Deformable-DETR" and "sub_bbox_embed.0.layers.0.weight" in told["left_out"]
    assert any("text_encoder" in name for name in told["expected_new"])
    network = weights.load(out, None)
    assert (network.config.backbone, network.config.pairs) == ("resnet50", 100)
    assert torch.equal(network.state_dict()["verb_tgt_embed.weight"], state["tgt_embed.weight"][:200])
