"""Configurations and weights on disk, valid and invalid, and what a network takes of the weights of others."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from models import weights
from models.config import ConfigError, NetworkConfig
from models.network import Network
from models.relation_tagger import RelationTagger
from models.rlip import RLIP
from models.weights import PER_PAIR, build, first_pairs, fits_fewer_pairs, load_pretrained
from models.weights_file import read_config


def test_round_trip(small_config, small_tagger_config, tokenizer, tmp_path):
    for kind, config in ((RLIP, small_config), (RelationTagger, small_tagger_config)):
        network = kind(config, tokenizer)
        weights.save(network, tmp_path / "network.safetensors")
        loaded = weights.load(tmp_path / "network.safetensors", tokenizer)
        assert type(loaded) is kind and loaded.config == config and not loaded.training
        state = loaded.state_dict()
        assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
        assert read_config(tmp_path / "network.safetensors") == config
        weights.save(loaded, tmp_path / "again")
        assert (tmp_path / "again").read_bytes() == (tmp_path / "network.safetensors").read_bytes()


def test_files_that_are_no_weights(small_config, tokenizer, tmp_path):
    with pytest.raises(FileNotFoundError, match="none"):
        weights.load(tmp_path / "none", tokenizer)
    (tmp_path / "torn").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    with pytest.raises(weights.WeightsError, match="torn"):
        weights.load(tmp_path / "torn", tokenizer)
    save_file({"x": torch.zeros(1)}, str(tmp_path / "foreign"))
    with pytest.raises(weights.WeightsError, match="no network configuration"):
        weights.load(tmp_path / "foreign", tokenizer)
    save_file({"x": torch.zeros(1)}, str(tmp_path / "listed"), metadata={"network": "[1]"})
    with pytest.raises(weights.WeightsError, match=r"invalid network configuration: \[1\] is not a table"):
        weights.load(tmp_path / "listed", tokenizer)
    save_file({"x": torch.zeros(1)}, str(tmp_path / "other"), metadata={"network": json.dumps(small_config.to_dict())})
    with pytest.raises(weights.WeightsError, match="missing"):
        weights.load(tmp_path / "other", tokenizer)


def test_nothing_is_allocated_for_a_file_that_has_other_shapes(tmp_path):
    """The table of tokens alone would take 4 TiB."""
    huge = {"text": {"hidden": 65_520, "vocabulary": 2**24}}
    save_file({"x": torch.zeros(1)}, str(tmp_path / "huge"), metadata={"network": json.dumps(huge)})
    with pytest.raises(weights.WeightsError, match="do not fit their own configuration"):
        weights.load(tmp_path / "huge", None)


@pytest.mark.parametrize("field, value", [
    ("gate", "open"), ("encoder_layers", 10**9), ("width", 2**40), ("text", {"vocabulary": 2**40}), ("width", 100),
    ("width", "64"), ("pairs", 0), ("dropout", 1.0), ("points", True), ("backbone_strides", [32, 16]), ("unknown", 1),
    ("tagger", True), ("text", {"hidden": 30}), ("text", 3),
])  # fmt: skip
def test_bad_settings_are_named(field, value):
    with pytest.raises(ConfigError) as error:
        NetworkConfig.from_dict({field: value})
    text = str(error.value)
    assert "must be" in text or "allowed" in text
    assert field in text or (field == "tagger" and "architecture" in text)


def test_a_stride_that_a_backbone_lacks_is_named(small_config, tokenizer):
    with pytest.raises(ConfigError, match="stride 64"):
        RLIP(replace(small_config, backbone_strides=(32, 64)), tokenizer)


@pytest.fixture
def saved(small_config: NetworkConfig, tokenizer: Path, tmp_path: Path) -> tuple[Network, Path]:
    """A ParSeDA, and the file with its weights."""
    network, path = build(small_config, tokenizer), tmp_path / "parseda.safetensors"
    weights.save(network, path)
    return network, path


def test_a_network_of_the_same_kind_takes_everything(saved, small_config, tokenizer):
    given, path = saved
    network = build(small_config, tokenizer)
    loaded = load_pretrained(network, path, tokenizer)
    assert loaded.random == loaded.left_out == [] and loaded.taken == sorted(given.state_dict())
    assert all(torch.equal(value, given.state_dict()[name]) for name, value in network.state_dict().items())
    count = len(loaded.taken)
    assert loaded.describe() == f"{count} of {count} tensors come from pretrained = {path}"


def test_a_network_of_another_kind_takes_what_has_its_name(saved, small_tagger_config, tokenizer):
    given, path = saved
    tagger = build(small_tagger_config, tokenizer)
    before = {name: value.clone() for name, value in tagger.state_dict().items()}
    loaded = load_pretrained(tagger, path, tokenizer)
    theirs = given.state_dict()
    assert set(loaded.taken) == before.keys() & theirs.keys()
    assert set(loaded.random) == before.keys() - theirs.keys()
    assert set(loaded.left_out) == theirs.keys() - before.keys()
    assert {"transformer.coord_proj.weight", "transformer.verb_tgt.weight"} <= set(loaded.random)
    assert {"refpoint_embed.weight", "tgt_embed.weight"} <= set(loaded.left_out)
    for name, value in tagger.state_dict().items():
        assert torch.equal(value, theirs[name] if name in loaded.taken else before[name]), name
    assert f"{len(loaded.taken)} of {len(before)} tensors come from pretrained = {path}; random: " in loaded.describe()
    assert "transformer.coord_proj (2)" in loaded.describe() and "not used: refpoint_embed (1)" in loaded.describe()


@pytest.mark.parametrize("setting, other, message", [
    ("feedforward", 48, r"parseda.*linear1\.weight \(32, 32\).*\(48, 32\)"),
    ("pairs", 7, r"tgt_embed.weight \(10, 32\), where the network has \(14, 32\)"),
    ("fusion_heads", 4, "trained with fusion_heads=2.*set network.fusion_heads to 2"),
    ("backbone_norm", "frozen", "trained with backbone_norm='group'.*set network.backbone_norm to 'group'"),
    ("text", {"heads": 4}, "trained with text.heads=2"), ("text", {"kind": "bert"}, "trained with text.kind='roberta'"),
])  # fmt: skip
def test_weights_that_fit_no_more_are_named_and_change_nothing(saved, small_config, setting, other, message):
    network = build(
        replace(small_config, **{setting: replace(small_config.text, **other) if setting == "text" else other}), None
    )
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        load_pretrained(network, saved[1], None)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_backbone_is_frozen_with_the_statistics_that_it_has_learned(small_config, tmp_path):
    learning, frozen = (build(replace(small_config, backbone_norm=norm), None) for norm in ("batch", "frozen"))
    weights.save(learning, tmp_path / "batch.safetensors")
    assert load_pretrained(frozen, tmp_path / "batch.safetensors", None).random == []


def test_heads_of_what_is_not_shared_may_differ(saved, small_config):
    network = build(replace(small_config, fusion="none", fusion_heads=4), None)
    assert load_pretrained(network, saved[1], None).taken == sorted(network.state_dict())


def test_the_first_pairs_stay_together_and_to_the_authors_subjects_become_objects():
    table = torch.arange(10)[:, None]  # subjects 0 to 4, objects 5 to 9
    assert first_pairs("tgt_embed.weight", table, 4)[:, 0].tolist() == [0, 1, 5, 6]
    assert first_pairs("transformer.verb_query_embed.weight", table, 4)[:, 0].tolist() == [0, 1, 2, 3]
    assert first_pairs("tgt_embed.weight", table, 6, official_compat=True)[:, 0].tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("architecture", ["parseda", "parsed"])
def test_every_table_whose_size_depends_on_the_pairs_is_known(small_config, architecture):
    config = replace(small_config, architecture=architecture)
    shapes = [
        {name: tuple(value.shape) for name, value in build(replace(config, pairs=pairs), None).state_dict().items()}
        for pairs in (5, 3)
    ]
    differing = {name for name, shape in shapes[1].items() if shapes[0][name] != shape}
    assert differing and differing <= PER_PAIR.keys()
    assert all(fits_fewer_pairs(name, shapes[0][name], shapes[1][name]) for name in differing)
    assert not fits_fewer_pairs("tgt_embed.weight", (200, 128), (128, 256))
    assert not fits_fewer_pairs("transformer.level_embed", (5, 256), (4, 256))


def test_a_training_takes_the_first_pairs_of_its_pretrained_weights(saved, small_config, tokenizer):
    given, path = saved
    started = build(replace(small_config, pairs=3), tokenizer)
    load_pretrained(started, path, tokenizer)
    assert torch.equal(started.tgt_embed.weight, given.tgt_embed.weight[[0, 1, 2, 5, 6, 7]])
    assert torch.equal(started.transformer.level_embed, given.transformer.level_embed)
