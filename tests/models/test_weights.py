"""Configurations and weights on disk, valid and invalid."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from models import weights
from models.config import ConfigError, NetworkConfig
from models.relation_tagger import RelationTagger
from models.rlip import RLIP
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


def test_the_same_weights_are_the_same_bytes(small_config, tokenizer, tmp_path):
    network = RLIP(small_config, tokenizer)
    weights.save(network, tmp_path / "a")
    weights.save(weights.load(tmp_path / "a", tokenizer), tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_files_that_are_no_weights(small_config, tokenizer, tmp_path):
    with pytest.raises(FileNotFoundError, match="none"):
        weights.load(tmp_path / "none", tokenizer)
    (tmp_path / "torn").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    with pytest.raises(weights.WeightsError, match="torn"):
        weights.load(tmp_path / "torn", tokenizer)
    save_file({"x": torch.zeros(1)}, str(tmp_path / "foreign"))
    with pytest.raises(weights.WeightsError, match="no network configuration"):
        weights.load(tmp_path / "foreign", tokenizer)
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
