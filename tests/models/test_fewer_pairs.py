"""Weights for more pairs fit a network with fewer: the first subjects keep their objects."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from models.config import NetworkConfig
from models.pretrained import PER_PAIR, first_pairs, fits_fewer_pairs, load_initial
from models.weights import build, save


def test_the_first_pairs_stay_together():
    table = torch.arange(10)[:, None]  # subjects 0 to 4, objects 5 to 9
    assert first_pairs("tgt_embed.weight", table, 4)[:, 0].tolist() == [0, 1, 5, 6]
    assert first_pairs("transformer.verb_query_embed.weight", table, 4)[:, 0].tolist() == [0, 1, 2, 3]


def test_the_authors_take_the_first_rows_so_that_subjects_become_objects():
    table = torch.arange(10)[:, None]
    assert first_pairs("tgt_embed.weight", table, 6, official_compat=True)[:, 0].tolist() == [0, 1, 2, 3, 4, 5]


def test_only_query_tables_with_more_rows_fit():
    assert fits_fewer_pairs("tgt_embed.weight", (200, 256), (128, 256))
    assert not fits_fewer_pairs("tgt_embed.weight", (128, 256), (200, 256))
    assert not fits_fewer_pairs("tgt_embed.weight", (200, 128), (128, 256))
    assert not fits_fewer_pairs("transformer.level_embed", (5, 256), (4, 256))


@pytest.mark.parametrize("architecture", ["parseda", "parsed"])
def test_every_table_whose_size_depends_on_the_pairs_is_known(small_config: NetworkConfig, architecture: str):
    config = replace(small_config, architecture=architecture)
    shapes = [
        {name: tuple(value.shape) for name, value in build(replace(config, pairs=pairs), None).state_dict().items()}
        for pairs in (5, 3)
    ]
    differing = {name for name, shape in shapes[1].items() if shapes[0][name] != shape}
    assert differing and differing <= PER_PAIR.keys()
    assert all(fits_fewer_pairs(name, shapes[0][name], shapes[1][name]) for name in differing)


def test_a_training_takes_the_first_pairs_of_its_initial_weights(
    small_config: NetworkConfig, tokenizer: Path, tmp_path: Path
):
    given = build(small_config, tokenizer)
    save(given, tmp_path / "given.safetensors")
    started = build(replace(small_config, pairs=3), tokenizer)
    load_initial(started, tmp_path / "given.safetensors", tokenizer)
    assert torch.equal(started.tgt_embed.weight, given.tgt_embed.weight[[0, 1, 2, 5, 6, 7]])
    assert torch.equal(started.transformer.level_embed, given.transformer.level_embed)
    more = build(replace(small_config, pairs=7), tokenizer)
    with pytest.raises(ValueError, match=r"tgt_embed.weight has shape \(10, 32\), but the network has \(14, 32\)"):
        load_initial(more, tmp_path / "given.safetensors", tokenizer)
