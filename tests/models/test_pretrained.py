"""Networks that start from the weights of others: what is taken, what stays random, and what is told of it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from models import weights
from models.config import NetworkConfig
from models.network import Network
from models.weights import PER_PAIR, build, first_pairs, fits_fewer_pairs, load_pretrained, save


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


def test_another_shape_is_named_and_changes_nothing(saved, small_config, tokenizer):
    _, path = saved
    network = build(replace(small_config, feedforward=48), tokenizer)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(ValueError, match=r"pretrained = .*parseda.*linear1\.weight has shape \(32, 32\).*\(48, 32\)"):
        load_pretrained(network, path, tokenizer)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


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


def test_a_training_takes_the_first_pairs_of_its_initial_weights(small_config, tokenizer, tmp_path):
    given = build(small_config, tokenizer)
    save(given, tmp_path / "given.safetensors")
    started = build(replace(small_config, pairs=3), tokenizer)
    load_pretrained(started, tmp_path / "given.safetensors", tokenizer)
    assert torch.equal(started.tgt_embed.weight, given.tgt_embed.weight[[0, 1, 2, 5, 6, 7]])
    assert torch.equal(started.transformer.level_embed, given.transformer.level_embed)
    more = build(replace(small_config, pairs=7), tokenizer)
    with pytest.raises(ValueError, match=r"tgt_embed.weight has shape \(10, 32\), but the network has \(14, 32\)"):
        load_pretrained(more, tmp_path / "given.safetensors", tokenizer)
