"""Import of official checkpoints: intact, damaged and hostile."""

import argparse
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.recorded.recording import Recording
from models import weights
from models.official.imported import NEW_TO_DETECTORS, Imported, import_checkpoint
from models.official.sizes import Kind
from models.weights_file import WeightsError

NOT_INFERRED = {"text": {"heads": 2}}
SMALL = {
    "decoder_layers": 1, "pairs": 3, "heads": 2,
    "text": {"hidden": 32, "layers": 1, "heads": 2, "feedforward": 16, "vocabulary": 40, "max_positions": 12},
    "fusion_width": 32,
}  # fmt: skip
OF_THE_ENCODER = ("transformer.encoder.layers.", "transformer.level_embed")
KEPT_OF_DETECTORS = ("backbone.", "input_proj.", "refpoint_embed.", "tgt_embed.", *OF_THE_ENCODER)
State = dict[str, torch.Tensor]


@pytest.fixture
def official(own: Path) -> State:
    """A small ParSeDA's parameters under the authors' names."""
    return {name: value.float() for name, value in load_file(own / "parseda_own.safetensors").items()}


@pytest.fixture
def args(own: Path) -> dict[str, Any]:
    """The settings that it was trained with."""
    settings: dict[str, Any] = json.loads((own / "parseda_own_args.json").read_text())["args"]
    return settings


@pytest.fixture
def detector(official: State) -> State:
    """A small DAB-Deformable-DETR with two decoder layers and two classes."""
    state: State = {}
    for name, value in official.items():
        if name.startswith("transformer.ho_decoder.sub_bbox_embed."):
            state[name.replace("ho_decoder.sub_bbox", "decoder.bbox")] = value
            state[name.removeprefix("transformer.ho_decoder.sub_")] = value
        elif name.startswith("transformer.ho_decoder.") and "_bbox_embed" not in name:
            state[name.replace("ho_decoder", "decoder")] = value
        elif name.startswith(KEPT_OF_DETECTORS):
            state[name] = value
    state |= {f"class_embed.{layer}.{kind}": torch.zeros(2) for layer in (0, 1) for kind in ("weight", "bias")}
    return state


def written(path: Path, state: State, args: dict[str, Any] | None = None) -> Path:
    """Writes a checkpoint as the authors' training does."""
    content: dict[str, Any] = {"model": state, "optimizer": {"state": {0: {"step": 1}}}, "epoch": 3}
    if args is not None:
        content["args"] = argparse.Namespace(**args)
    torch.save(content, path)
    return path


@pytest.mark.parametrize("name", ["parseda_own", "parsed_own", "tagger_own"])
def test_a_checkpoint_becomes_the_recorded_network(own, name, tmp_path):
    recording = Recording(own, name)
    path = written(tmp_path / "official.pth", load_file(own / f"{name}.safetensors"), recording.args)
    imported = import_checkpoint(path, overrides=NOT_INFERRED)
    assert imported.new == [] and imported.kind is Kind[name.partition("_")[0].upper()]
    assert imported.left_out == (["query_embed.weight"] if name == "tagger_own" else [])
    assert len(imported.loaded) + len(imported.left_out) == len(recording.official)
    weights.write(imported.state, imported.config, tmp_path / "ours.safetensors")
    loaded = weights.load(tmp_path / "ours.safetensors", None)
    assert loaded.config == imported.config and loaded.config.official_compat
    state = recording.network.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in loaded.state_dict().items())


def test_a_plain_table_of_parameters_will_do(official, own, tmp_path):
    torch.save(official, tmp_path / "plain.pth")
    with_file = import_checkpoint(tmp_path / "plain.pth", own / "parseda_own_args.json", NOT_INFERRED)
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


def test_an_anchored_detector_becomes_both_decoders(detector, tmp_path):
    path = written(tmp_path / "dab.pth", detector)
    imported = import_checkpoint(path, overrides=SMALL)
    assert imported.kind is Kind.DAB_DEFORMABLE and imported.config.architecture == "parseda"
    assert imported.config.pairs == 3 and imported.config.decoder_layers == 1
    state = imported.state
    for stage in ("ho", "verb"):
        key = f"transformer.{stage}_decoder.layers.0.cross_attn.value_proj.weight"
        assert torch.equal(state[key], detector["transformer.decoder.layers.0.cross_attn.value_proj.weight"])
        key = f"transformer.{stage}_decoder.query_scale.layers.1.bias"
        assert torch.equal(state[key], detector["transformer.decoder.query_scale.layers.1.bias"])
    for role in ("sub", "obj"):
        for head in (0, 1):
            key = f"{role}_bbox_embed.{head}.layers.2.weight"
            assert torch.equal(state[key], detector[f"bbox_embed.{head}.layers.2.weight"])
    for key in ("tgt_embed.weight", "verb_tgt_embed.weight"):
        assert torch.equal(state[key], detector["tgt_embed.weight"][:6])
    assert torch.equal(state["refpoint_embed.weight"], detector["refpoint_embed.weight"][:6])
    _new_is_what_reads_and_relates(imported)
    _comes_back_from_a_file(imported, tmp_path)
    without_a_place = ("class_embed.", "transformer.decoder.bbox", "transformer.decoder.layers.1")
    left = {name for name in detector if name.startswith(without_a_place)}
    assert set(imported.left_out) == left
    again = import_checkpoint(path, overrides=SMALL)
    assert all(torch.equal(value, again.state[key]) for key, value in state.items())
    other = import_checkpoint(path, overrides=SMALL, seed=1)
    assert not torch.equal(state["transformer.resizer.fc.weight"], other.state["transformer.resizer.fc.weight"])


def _comes_back_from_a_file(imported: Imported, folder: Path) -> None:
    """The parameters that both decoders share have one value in a detector, and each its own in the file."""
    weights.write(imported.state, imported.config, folder / "ours.safetensors")
    loaded = weights.load(folder / "ours.safetensors", None).state_dict()
    assert loaded.keys() == imported.state.keys()
    assert all(torch.equal(value, imported.state[key]) for key, value in loaded.items())


def test_a_detector_without_anchors_becomes_parsed(detector, tmp_path):
    for name in [name for name in detector if "query_scale" in name or "ref_point_head" in name]:
        del detector[name]
    content = detector.pop("tgt_embed.weight")
    del detector["refpoint_embed.weight"]
    position = torch.randn_like(content)
    detector["query_embed.weight"] = torch.cat((position, content), dim=1)
    detector["transformer.reference_points.weight"] = torch.randn(2, 32)
    detector["transformer.reference_points.bias"] = torch.randn(2)
    imported = import_checkpoint(written(tmp_path / "deformable.pth", detector, {"nheads": 2}), overrides=SMALL)
    assert imported.kind is Kind.DEFORMABLE and imported.config.architecture == "parsed"
    wanted = torch.cat((position, content, content), dim=1)[:6]
    assert torch.equal(imported.state["query_embed.weight"], wanted)
    for role in ("sub", "obj"):
        key = f"transformer.reference_points_{role}.weight"
        assert torch.equal(imported.state[key], detector["transformer.reference_points.weight"])
    key = "linear1.weight"
    assert torch.equal(
        imported.state[f"transformer.encoder.layers.1.{key}"], detector[f"transformer.encoder.layers.1.{key}"]
    )
    _new_is_what_reads_and_relates(imported)
    _comes_back_from_a_file(imported, tmp_path)


@pytest.mark.parametrize("prefix", ["", "roberta."])
def test_a_detector_takes_the_text_encoder_of_a_folder(detector, tmp_path, prefix):
    path = written(tmp_path / "dab.pth", detector)
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
    with pytest.raises(WeightsError, match=r"other sizes .*pooler\.dense\.bias"):
        import_checkpoint(path, overrides=SMALL, text_folder=tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no model\.safetensors in .*none"):
        import_checkpoint(path, overrides=SMALL, text_folder=tmp_path / "none")


def test_a_gate_of_one_number_per_channel_can_be_asked_of_a_detector(detector, tmp_path):
    settings = SMALL | {"gate": "GLIP", "relation_queries": "vanilla"}
    imported = import_checkpoint(written(tmp_path / "dab.pth", detector), overrides=settings)
    gates = [value for name, value in imported.state.items() if name.endswith("gamma_v")]
    assert gates and all(gate.shape == (imported.config.width,) for gate in gates)


def test_only_a_detector_takes_another_text_encoder(official, args, tmp_path):
    with pytest.raises(WeightsError, match="has a text encoder of its own; leave out --text"):
        import_checkpoint(written(tmp_path / "own.pth", official, args), overrides=NOT_INFERRED, text_folder=tmp_path)


def _new_is_what_reads_and_relates(imported: Imported) -> None:
    assert imported.new and all(name.startswith(NEW_TO_DETECTORS) for name in imported.new)
    network = weights.build(imported.config, None)
    network.load_state_dict(imported.state)


@pytest.mark.parametrize("share", [0.0, 0.999])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_cut_short_is_named(tmp_path, official, args, suffix, share):
    whole = tmp_path / f"whole{suffix}"
    if suffix == ".pth":
        written(whole, official, args)
    else:
        save_file(official, str(whole))
    content = whole.read_bytes()
    (tmp_path / f"cut{suffix}").write_bytes(content[: int(share * len(content))])
    with pytest.raises(WeightsError, match=rf"cut\{suffix}: not a readable"):
        import_checkpoint(tmp_path / f"cut{suffix}")


def test_files_that_are_no_checkpoints_are_named(tmp_path, official, small_config, tokenizer):
    with pytest.raises(FileNotFoundError, match=r"none\.pth"):
        import_checkpoint(tmp_path / "none.pth")
    weights.save(weights.build(small_config, tokenizer), tmp_path / "ours.safetensors")
    with pytest.raises(WeightsError, match="already holds weights of this project"):
        import_checkpoint(tmp_path / "ours.safetensors")


def test_another_architecture_is_told_by_its_names(tmp_path):
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
