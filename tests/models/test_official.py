"""The authors' parameter names and shapes, at full size."""

from __future__ import annotations

import ast

import pytest
import torch

from models.config import NetworkConfig, TextConfig
from models.official.names import from_official
from models.relation_tagger import RelationTagger
from models.rlip import RLIP

SETTINGS = {
    "parseda": {"architecture": "parseda", "feedforward": 2048},
    "parsed": {"architecture": "parsed", "feedforward": 1024},
    "tagger": {
        "architecture": "parsed",
        "feedforward": 1024,
        "tagger": True,
        "gate": "GLIP",
        "relation_queries": "vanilla",
    },
}


@pytest.mark.parametrize("name", SETTINGS)
def test_every_official_parameter_has_its_place(shared, tokenizer, name):
    rows = [line.split("\t") for line in (shared / "oracle" / f"{name}_r50_state_dict.tsv").read_text().splitlines()]
    state = {row[0]: torch.empty(ast.literal_eval(row[1]), device="meta") for row in rows if row[1].startswith("(")}
    config = NetworkConfig(official_compat=True, text=TextConfig(), **SETTINGS[name])
    with torch.device("meta"):
        network = (RelationTagger if config.tagger else RLIP)(config, tokenizer)
    ours = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    theirs = {key: tuple(value.shape) for key, value in from_official(state, config).items()}
    assert theirs == ours
