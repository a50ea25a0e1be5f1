"""Import of official checkpoints: intact, damaged and hostile."""

import argparse
import json
import re
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.parity import OWN
from benchmarks.recorded.recording import Recording
from models import weights
from models.config import NetworkConfig
from models.official.imported import NEW_TO_TWO_STAGES, import_checkpoint
from models.official.sizes import Architecture
from models.weights_file import WeightsError
from tests.detector_checkpoint import converted, detector

NOT_INFERRED = {"text": {"heads": 2}}
SMALL = {
    "decoder_layers": 1, "pairs": 3, "heads": 2,
    "text": {"hidden": 32, "layers": 1, "heads": 2, "feedforward": 16, "vocabulary": 40, "max_positions": 12},
    "fusion_width": 32,
}  # fmt: skip
DETECTOR = NetworkConfig(
    backbone="resnet_w4_1_1_1_1", width=32, heads=2, encoder_layers=2, decoder_layers=2, feedforward=32, pairs=5,
    official_compat=True,
)  # fmt: skip
"""The size of the detectors. `SMALL` asks for fewer queries and decoder layers."""
State = dict[str, torch.Tensor]


@pytest.fixture
def official() -> State:
    """A small ParSeDA's parameters under the authors' names."""
    return {name: value.float() for name, value in load_file(OWN / "parseda_own.safetensors").items()}


@pytest.fixture
def args() -> dict[str, Any]:
    """The settings that it was trained with."""
    settings: dict[str, Any] = json.loads((OWN / "parseda_own_args.json").read_text())["args"]
    return settings


def written(path: Path, state: State, args: dict[str, Any] | None = None) -> Path:
    """Writes a checkpoint as the authors' training does."""
    content: dict[str, Any] = {"model": state, "optimizer": {"state": {0: {"step": 1}}}, "epoch": 3}
    if args is not None:
        content["args"] = argparse.Namespace(**args)
    torch.save(content, path)
    return path


@pytest.mark.parametrize("name", ["parseda_own", "parsed_own", "tagger_own"])
def test_a_checkpoint_becomes_the_recorded_network(name, tmp_path):
    recording = Recording(OWN, name)
    path = written(tmp_path / "official.pth", load_file(OWN / f"{name}.safetensors"), recording.args)
    imported = import_checkpoint(path, overrides=NOT_INFERRED)
    assert imported.new == [] and imported.kind is Architecture[name.partition("_")[0].upper()]
    assert imported.left_out == (["query_embed.weight"] if name == "tagger_own" else [])
    assert len(imported.loaded) + len(imported.left_out) == len(recording.official)
    weights.write(imported.state, imported.config, tmp_path / "ours.safetensors")
    loaded = weights.load(tmp_path / "ours.safetensors", None)
    assert loaded.config == imported.config and loaded.config.official_compat
    state = recording.network.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in loaded.state_dict().items())


def test_a_plain_table_of_parameters_will_do(official, tmp_path):
    torch.save(official, tmp_path / "plain.pth")
    with_file = import_checkpoint(tmp_path / "plain.pth", OWN / "parseda_own_args.json", NOT_INFERRED)
    given = {"heads": 2, "gate": "VXAc", "relation_queries": "vanilla_MBF"} | NOT_INFERRED
    with_settings = import_checkpoint(tmp_path / "plain.pth", overrides=given)
    assert with_file.config == with_settings.config
    with pytest.raises(WeightsError, match=r"--set heads=8 --set relation_queries=vanilla_MBF .*--set text\.heads=12"):
        import_checkpoint(tmp_path / "plain.pth")


def test_box_heads_of_two_names_may_differ_and_the_top_level_one_counts(official, args, tmp_path):
    name = "transformer.verb_decoder.obj_bbox_embed.1.layers.2.bias"
    official["obj_bbox_embed.3.layers.2.bias"] = official[name] + 1
    imported = import_checkpoint(written(tmp_path / "two.pth", official, args), overrides=NOT_INFERRED)
    assert torch.equal(imported.state["obj_bbox_embed.3.layers.2.bias"], official[name] + 1)


@pytest.mark.parametrize(("architecture", "two_stage"), [("parseda", False), ("parsed", False), ("parsed", True)])
def test_a_detector_and_its_conversion_become_both_decoders(architecture, two_stage, tmp_path):
    found = detector(replace(DETECTOR, architecture=architecture), two_stage)
    args = {"two_stage": two_stage, "nheads": 2}
    imported = import_checkpoint(written(tmp_path / "found.pth", found, args), overrides=SMALL)
    with pytest.raises(WeightsError, match="decoder_layers=0: must be a whole number"):
        import_checkpoint(tmp_path / "found.pth", overrides={**SMALL, "decoder_layers": 0})
    anchored = architecture == "parseda"
    assert imported.kind is (Architecture.DAB_DEFORMABLE if anchored else Architecture.DEFORMABLE)
    assert (imported.config.architecture, imported.config.backbone) == (architecture, DETECTOR.backbone)
    assert (imported.config.pairs, imported.config.decoder_layers) == (3, 1)
    kept = {"transformer.encoder.layers.1.linear1.weight": "transformer.encoder.layers.1.linear1.weight"}
    for stage, layer in product(("ho", "verb"), ("layers.0.cross_attn.value_proj.weight", "query_scale.layers.1.bias")):
        if anchored or layer.startswith("layers."):
            kept[f"transformer.{stage}_decoder.{layer}"] = f"transformer.decoder.{layer}"
    for role, head in product(("sub", "obj"), (0, 1)):
        kept[f"{role}_bbox_embed.{head}.layers.2.weight"] = f"bbox_embed.{head}.layers.2.weight"
        if not anchored and not two_stage:
            kept[f"transformer.reference_points_{role}.weight"] = "transformer.reference_points.weight"
    wanted = {ours: found[theirs] for ours, theirs in kept.items()}
    if anchored:
        wanted |= dict.fromkeys(("tgt_embed.weight", "verb_tgt_embed.weight"), found["tgt_embed.weight"][:6])
        wanted["refpoint_embed.weight"] = found["refpoint_embed.weight"][:6]
    else:
        table = found["query_embed.weight"][:6]
        position, content = (table, table) if two_stage else table.chunk(2, dim=1)
        wanted["query_embed.weight"] = torch.cat((position, content, content), dim=1)
    state = imported.state
    assert [name for name, value in wanted.items() if not torch.equal(state[name], value)] == []
    assert imported.new and all(name.startswith(NEW_TO_TWO_STAGES) for name in imported.new)
    assert any("reference_points" in name for name in imported.new) == two_stage
    weights.write(state, imported.config, tmp_path / "ours.safetensors")
    loaded = weights.load(tmp_path / "ours.safetensors", None).state_dict()
    assert loaded.keys() == state.keys() and all(torch.equal(value, state[name]) for name, value in loaded.items())
    again = import_checkpoint(written(tmp_path / "both.pth", converted(found), args), overrides=SMALL)
    assert again.kind is imported.kind and "sub_bbox_embed.0.layers.0.weight" in again.left_out
    assert all(torch.equal(value, again.state[name]) for name, value in state.items())


def test_new_parameters_follow_the_seed_and_what_has_no_place_is_reported(tmp_path):
    found = detector(DETECTOR)
    imported, other = (
        import_checkpoint(written(tmp_path / "dab.pth", found), overrides=SMALL, seed=seed) for seed in (0, 1)
    )
    name = "transformer.resizer.fc.weight"
    assert not torch.equal(imported.state[name], other.state[name])
    without_a_place = ("class_embed.", "transformer.decoder.bbox", "transformer.decoder.layers.1")
    assert set(imported.left_out) == {name for name in found if name.startswith(without_a_place)}


@pytest.mark.parametrize("prefix", ["", "roberta."])
def test_a_detector_takes_the_text_encoder_of_a_folder(tmp_path, prefix):
    path = written(tmp_path / "dab.pth", detector(DETECTOR))
    without = import_checkpoint(path, overrides=SMALL)
    ours = "transformer.text_encoder.roberta."
    encoder = {
        prefix + name.removeprefix(ours): value + 1 for name, value in without.state.items() if name.startswith(ours)
    }
    save_file(encoder | {"lm_head.bias": torch.zeros(3)}, tmp_path / "model.safetensors")
    imported = import_checkpoint(path, overrides=SMALL, text_folder=tmp_path)
    assert {name.removeprefix(ours) for name in imported.texts} == {name.removeprefix(prefix) for name in encoder}
    assert all(torch.equal(imported.state[name], without.state[name] + 1) for name in imported.texts)
    assert set(imported.new) == set(without.new) - set(imported.texts)
    lacking = {name: value for name, value in encoder.items() if "pooler" not in name}
    save_file(lacking, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=r"model\.safetensors: lacks .*pooler"):
        import_checkpoint(path, overrides=SMALL, text_folder=tmp_path)
    save_file(encoder | {f"{prefix}pooler.dense.bias": torch.zeros(3)}, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=r"sizes differ .*pooler\.dense\.bias"):
        import_checkpoint(path, overrides=SMALL, text_folder=tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no model\.safetensors in .*none"):
        import_checkpoint(path, overrides=SMALL, text_folder=tmp_path / "none")


def test_a_gate_of_one_number_per_channel_can_be_asked_of_a_detector(tmp_path):
    settings = SMALL | {"gate": "GLIP", "relation_queries": "vanilla"}
    imported = import_checkpoint(written(tmp_path / "dab.pth", detector(DETECTOR)), overrides=settings)
    gates = [value for name, value in imported.state.items() if name.endswith("gamma_v")]
    assert gates and all(gate.shape == (imported.config.width,) for gate in gates)


def test_only_a_detector_takes_another_text_encoder(official, args, tmp_path):
    with pytest.raises(WeightsError, match="has its own text encoder; omit --text"):
        import_checkpoint(written(tmp_path / "own.pth", official, args), overrides=NOT_INFERRED, text_folder=tmp_path)


def test_files_that_are_no_checkpoints_are_named(tmp_path, official, small_config, tokenizer):
    with pytest.raises(FileNotFoundError, match=r"none\.pth"):
        import_checkpoint(tmp_path / "none.pth")
    weights.save(weights.build(small_config, tokenizer), tmp_path / "ours.safetensors")
    with pytest.raises(WeightsError, match="already contains weights of this project"):
        import_checkpoint(tmp_path / "ours.safetensors")


def test_another_architecture_is_recognised_by_its_names(tmp_path):
    state = {"encoder.layer.0.weight": torch.zeros(2), "head.bias": torch.zeros(1)}
    with pytest.raises(
        WeightsError, match=r"unsupported architecture; expected RLIPv2-ParSeDA.*encoder\.layer\.0\.weight, head\.bias"
    ):
        import_checkpoint(written(tmp_path / "other.pth", state))


def test_parameters_that_do_not_fit_are_all_named(official, args, tmp_path):
    official["projection_text.extra"] = torch.zeros(1)
    official |= {f"transformer.mystery.{layer}.weight": torch.zeros(1) for layer in range(3)}
    del official["bias_pred_a"]
    official["transformer.encoder.layers.1.norm2.weight"] = torch.zeros(7)
    with pytest.raises(WeightsError) as error:
        import_checkpoint(written(tmp_path / "unfit.pth", official, args), overrides=NOT_INFERRED)
    assert "missing: bias_pred_a" in str(error.value)
    assert "unexpected: projection_text.extra, transformer.mystery.*.weight (3)" in str(error.value)
    assert "shape (7,), but the network expects (32,): transformer.encoder.layers.1.norm2.weight" in str(error.value)


def test_any_parameter_of_another_shape_is_named(official, args, tmp_path):
    """Covers sizes inferred from it, partly used gates, branches stored side by side, the backbone's first layer."""
    for name in (
        "transformer.level_embed",
        "transformer.encoder.VLFuse_layers.1.b_attn.gamma_l",
        "transformer.verb_tgt_generator.fc_3.0.bias",
        "backbone.0.body.layer1.0.conv3.weight",
    ):
        for other in (torch.tensor(0.0), torch.zeros(5, *official[name].shape)):
            with pytest.raises(WeightsError, match=re.escape(name)):
                path = written(tmp_path / "unfit.pth", {**official, name: other}, args)
                import_checkpoint(path, overrides=NOT_INFERRED)
        without = {key: value for key, value in official.items() if key != name}
        with pytest.raises(WeightsError, match=re.escape(name.removeprefix("backbone.0."))):
            import_checkpoint(written(tmp_path / "unfit.pth", without, args), overrides=NOT_INFERRED)


def test_weights_of_ours_that_are_no_numbers_are_named(small_config, tokenizer, tmp_path):
    network = weights.build(small_config, tokenizer)
    with torch.no_grad():
        network.projection_text.weight[0, 0] = float("nan")
    weights.save(network, tmp_path / "diverged.safetensors")
    with pytest.raises(WeightsError, match=r"diverged\.safetensors.*projection_text\.weight"):
        weights.load(tmp_path / "diverged.safetensors", tokenizer)


def test_training_settings_that_cannot_be_rebuilt_are_named(official, args, tmp_path):
    path = written(tmp_path / "other.pth", official, args | {"fusion_type": "MDETR_attn"})
    with pytest.raises(WeightsError, match=r"other\.pth: trained with fusion_type='MDETR_attn'"):
        import_checkpoint(path, overrides=NOT_INFERRED)
    (tmp_path / "args.json").write_text("{")
    with pytest.raises(WeightsError, match=r"args\.json: not a readable JSON"):
        import_checkpoint(path, tmp_path / "args.json")
    with pytest.raises(FileNotFoundError, match=r"settings at .*none\.json"):
        import_checkpoint(path, tmp_path / "none.json")
