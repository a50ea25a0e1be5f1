"""Networks that start from the weights of others: what is taken, what stays random, and what is told of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from models import weights
from models.config import NetworkConfig
from models.network import Network
from models.pretrained import Loaded, load_initial
from models.weights import build
from models.weights_file import WeightsError


@pytest.fixture
def saved(small_config: NetworkConfig, tokenizer: Path, tmp_path: Path) -> tuple[Network, Path]:
    """A ParSeDA, and the file with its weights."""
    network, path = build(small_config, tokenizer), tmp_path / "parseda.safetensors"
    weights.save(network, path)
    return network, path


def test_a_network_of_the_same_kind_takes_everything(saved, small_config, tokenizer):
    given, path = saved
    network = build(small_config, tokenizer)
    loaded = load_initial(network, path, tokenizer)
    assert loaded.random == loaded.left_out == [] and loaded.taken == sorted(given.state_dict())
    assert all(torch.equal(value, given.state_dict()[name]) for name, value in network.state_dict().items())
    count = len(loaded.taken)
    assert loaded.describe() == f"{count} of {count} tensors come from pretrained = {path}"


def test_a_network_of_another_kind_takes_what_has_its_name(saved, small_tagger_config, tokenizer):
    given, path = saved
    tagger = build(small_tagger_config, tokenizer)
    before = {name: value.clone() for name, value in tagger.state_dict().items()}
    loaded = load_initial(tagger, path, tokenizer)
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


def test_the_sentence_counts_by_part():
    taken, random = [f"backbone.{i}" for i in range(262)], [f"transformer.verb_decoder.layers.{i}.w" for i in range(96)]
    loaded = Loaded(Path("x"), taken, [*random, "bias_pred_a"], ["query_embed.weight"])
    assert loaded.describe() == (
        "262 of 359 tensors come from pretrained = x; random: bias_pred_a (1), transformer.verb_decoder (96); "
        "not used: query_embed (1)"
    )


def test_another_shape_is_named_and_changes_nothing(saved, small_config, tokenizer):
    _, path = saved
    network = build(replace(small_config, feedforward=48), tokenizer)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(ValueError, match=r"pretrained = .*parseda.*linear1\.weight has shape \(32, 32\).*\(48, 32\)"):
        load_initial(network, path, tokenizer)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_file_without_weights_is_named(small_config, tokenizer, tmp_path):
    network = build(small_config, tokenizer)
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors"):
        load_initial(network, tmp_path / "none.safetensors", tokenizer)
    (tmp_path / "text.safetensors").write_text("not weights")
    with pytest.raises(WeightsError, match=r"text\.safetensors"):
        load_initial(network, tmp_path / "text.safetensors", tokenizer)
