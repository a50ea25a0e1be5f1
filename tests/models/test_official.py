"""The authors' parameter names and shapes, at full size: each has its place in ours, and none of ours is left over."""

import ast
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from models.config import ConfigError, NetworkConfig
from models.official.export import differences, export_checkpoint
from models.official.names import from_official, is_unused, places, share_of
from models.official.sizes import Architecture, backbone_name, infer_config, kind_of
from models.weights import expected_shapes

NOT_INFERRED: dict[str, dict[str, Any]] = {
    "parseda": {"gate": "VXAc", "relation_queries": "vanilla_MBF"},
    "parsed": {"gate": "VXAc", "relation_queries": "vanilla_MBF"},
    "tagger": {"gate": "GLIP"},
}
"""Settings of the released networks that neither names nor shapes determine."""
RELEASED = {
    "parseda": (Architecture.PARSEDA, NetworkConfig(official_compat=True)),
    "parsed": (Architecture.PARSED, NetworkConfig(architecture="parsed", feedforward=1024, official_compat=True)),
    "tagger": (
        Architecture.TAGGER,
        NetworkConfig(
            architecture="parsed", feedforward=1024, tagger=True, gate="GLIP", relation_queries="vanilla",
            official_compat=True,
        ),
    ),
}  # fmt: skip
WITHOUT_A_PLACE = {
    "parseda": {"transformer.text_encoder.embeddings.position_ids"},
    "parsed": {"transformer.text_encoder.embeddings.position_ids"},
    "tagger": {"transformer.text_encoder.embeddings.position_ids", "query_embed.weight"},
}


def released(shared: Path, name: str) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Returns a released network's parameters without values, and the parameter that each alias stands for."""
    lines = (shared / "oracle" / f"{name}_r50_state_dict.tsv").read_text().splitlines()
    rows = [row for row in (line.split("\t") for line in lines) if row[1].startswith("(")]
    state = {row[0]: torch.empty(ast.literal_eval(row[1]), device="meta") for row in rows}
    return state, {row[0]: row[3] for row in rows if len(row) > 3 and row[3]}


@pytest.mark.parametrize("name", RELEASED)
def test_the_network_is_inferred_from_names_and_shapes(shared, name):
    state, _ = released(shared, name)
    kind, config = RELEASED[name]
    assert kind_of(state) is kind
    assert infer_config({key: tuple(x.shape) for key, x in state.items()}, kind, {}, NOT_INFERRED[name]) == config


@pytest.mark.parametrize("name", RELEASED)
def test_every_official_parameter_has_its_place(shared, name):
    state, aliases = released(shared, name)
    _, config = RELEASED[name]
    expected = expected_shapes(config)
    known = places(expected, config)
    assert {official for official in state if is_unused(official, config)} == WITHOUT_A_PLACE[name]
    assert state.keys() - known.keys() == WITHOUT_A_PLACE[name] and known.keys() <= state.keys()
    for official, target in aliases.items():
        assert known[official] == known[target]
    # One to one, with aliases counted once.
    taken = Counter(place for official, place in known.items() if official not in aliases)
    assert set(taken.values()) == {1}
    assert {place.name for place in taken} == expected.keys()
    for official, place in known.items():
        share = share_of(place, torch.empty(expected[place.name], device="meta"), config.relation_branches)
        used_of_gate = config.gate == "VXAc" and official.endswith(("gamma_v", "gamma_l"))
        assert share.shape == ((1,) if used_of_gate else state[official].shape), official
    assert {key: tuple(value.shape) for key, value in from_official(state, known, config).items()} == expected


@pytest.mark.parametrize("name", RELEASED)
def test_exports_have_the_authors_names_and_shapes(shared, name):
    official, _ = released(shared, name)
    _, config = RELEASED[name]
    state = {key: torch.empty(shape) for key, shape in expected_shapes(config).items()}
    exported = {key: value.shape for key, value in export_checkpoint(state, config).items()}
    assert exported == {key: value.shape for key, value in official.items()}
    assert differences(config) == []


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "swin_large_patch4_window7_224"])
def test_window_transformers_are_recognised_and_have_their_places(name):
    config = NetworkConfig(backbone=name, official_compat=True)
    ours = expected_shapes(config)
    official = {_as_the_authors_name(key): shape for key, shape in ours.items() if key.startswith("backbone.")}
    assert (
        "backbone.0.body.layers.2.downsample.reduction.weight" in official and "backbone.0.body.norm3.bias" in official
    )
    known = places(ours, config)
    assert {known[key].name for key in official} == {key for key in ours if key.startswith("backbone.")}
    rest = {key.replace("text_encoder.roberta.", "text_encoder."): x for key, x in ours.items() if key not in official}
    shapes = official | {key: x for key, x in rest.items() if not key.startswith("backbone.")}
    shapes["backbone.0.body.layers.0.blocks.0.attn.relative_position_index"] = (49, 49)
    overrides = {"gate": "VXAc", "relation_queries": "vanilla_MBF", "relation_branches": 16}
    assert infer_config(shapes, Architecture.PARSEDA, {}, overrides) == config
    assert infer_config(shapes, Architecture.PARSEDA, {"drop_path_rate": 0.2}, overrides).backbone_drop_path == 0.2
    assert is_unused("backbone.0.body.layers.0.blocks.0.attn.relative_position_index", config)


def test_exported_window_transformers_have_the_index_of_each_window():
    """The authors' code loads strictly. timm computes the same index, but doesn't store it."""
    config = NetworkConfig(backbone="swin_tiny_patch4_window7_224", official_compat=True)
    official = export_checkpoint({key: torch.empty(shape) for key, shape in expected_shapes(config).items()}, config)
    tables = {key for key in official if key.endswith("relative_position_bias_table")}
    indices = {key.replace("bias_table", "index") for key in tables}
    assert indices == {key for key in official if key.endswith("relative_position_index")}
    assert len(indices) == 12
    assert {tuple(official[key].shape) for key in indices} == {(49, 49)}


def _as_the_authors_name(name: str) -> str:
    """The authors number output norms by stage and merge windows at the end of the stage before."""
    name = re.sub(r"^backbone\.norms\.(\d)", lambda found: f"backbone.0.body.norm{int(found[1]) + 1}", name)
    name = re.sub(
        r"^backbone\.body\.layers_(\d)\.downsample",
        lambda found: f"backbone.0.body.layers.{int(found[1]) - 1}.downsample",
        name,
    )
    return name.replace("backbone.body.layers_", "backbone.0.body.layers.").replace(
        "backbone.body.", "backbone.0.body."
    )


def test_the_settings_of_the_training_tell_what_shapes_do_not(shared):
    shapes = {key: tuple(value.shape) for key, value in released(shared, "parsed")[0].items()}
    args = {
        "gating_mechanism": "XGating", "verb_query_tgt_type": "MBF", "nheads": 4, "dropout": 0.1,
        "fusion_interval": 2,
    }  # fmt: skip
    config = infer_config(shapes, Architecture.PARSED, args, {})
    inferred = (config.gate, config.relation_queries, config.heads, config.points, config.dropout)
    assert inferred == ("none", "MBF", 4, 8, 0.1)
    assert infer_config(shapes, Architecture.PARSED, args, {"gate": "GLIP", "text": {"dropout": 0.3}}).gate == "GLIP"


@pytest.mark.parametrize("args, overrides, message", [
    ({}, {}, "--set relation_queries="),
    ({"gating_mechanism": "VXAc"}, {}, "relation_queries"),
    ({"gating_mechanism": "Vtanh", "verb_query_tgt_type": "MBF"}, {}, "gate='Vtanh'"),
    ({"two_stage": True}, {}, "two_stage=True"),
    ({}, {"text": 3}, "text=3"),
    ({}, {"gate": "GLIP", "relation_queries": "MBF", "size": 1}, "size"),
])  # fmt: skip
def test_what_nothing_tells_or_is_not_supported_is_named(shared, args, overrides, message):
    shapes = {key: tuple(value.shape) for key, value in released(shared, "parseda")[0].items()}
    with pytest.raises(ConfigError) as error:
        infer_config(shapes, Architecture.PARSEDA, args, overrides)
    assert message in str(error.value)


def test_an_unknown_backbone_is_named():
    with pytest.raises(ConfigError, match="patch_embed"):
        backbone_name({"backbone.0.body.patch_embed.weight": (3,), "transformer.level_embed": (4, 256)})
