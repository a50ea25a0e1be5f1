"""Export of our weights to the authors' format: import gives them back, and their names are complete."""

import argparse
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.recorded.recording import Recording, targets_in
from models.config import ConfigError, NetworkConfig, TextConfig
from models.official.export import differences, export_checkpoint, official_options, write_checkpoint
from models.official.imported import import_checkpoint
from models.relation_tagger import PairQueries
from models.weights import build

SMALL = NetworkConfig(
    backbone="resnet_w4_1_1_1_1", width=32, heads=2, points=2, encoder_layers=4, decoder_layers=2, feedforward=24,
    pairs=5, fusion_width=32,
    text=TextConfig(hidden=16, layers=1, heads=2, feedforward=8, vocabulary=40, max_positions=12),
    official_compat=True,
)  # fmt: skip
PARSED = replace(SMALL, architecture="parsed", relation_queries="MBF")
TAGGER = replace(PARSED, tagger=True, gate="GLIP")
HEADS = {"text": {"heads": 2}}
SWIN = "swin_tiny_patch4_window7_224"
NETWORKS = {
    "parseda": SMALL,
    "parseda without a generator, without a gate": replace(SMALL, relation_queries="vanilla", gate="none"),
    "parsed": PARSED,
    "tagger": TAGGER,
    "tagger without a generator": replace(TAGGER, relation_queries="vanilla"),
    "tagger with Swin": replace(TAGGER, backbone=SWIN),
}


def made(config: NetworkConfig) -> torch.nn.Module:
    """A network whose every tensor, buffers included, is random, so that nothing is hidden by a zero."""
    network = build(config, None).eval()
    with torch.no_grad():
        for name, value in network.state_dict().items():
            value.copy_(value + (0.05 * torch.rand_like(value) if value.is_floating_point() else 0))
            assert value.is_floating_point() == (not name.endswith("num_batches_tracked"))
    return network


def written(network: torch.nn.Module, path: Path) -> Path:
    write_checkpoint(export_checkpoint(network.state_dict(), network.config), network.config, path)
    return path


def as_theirs(network: torch.nn.Module, path: Path) -> torch.nn.Module:
    """The network that is imported from the exported file."""
    imported = import_checkpoint(written(network, path), overrides=HEADS)
    theirs = build(imported.config, None).eval()
    theirs.load_state_dict(imported.state)
    return theirs


def test_what_differs_in_their_code_is_named_of_transformers_and_taggers():
    told = " ".join(differences(replace(TAGGER, backbone=SWIN, official_compat=False)))
    assert "after Swin count from cells' centres" in told and "width and height are lost" in told


@pytest.mark.parametrize("name", NETWORKS)
def test_import_gives_the_exported_weights_back(name, tmp_path):
    config = NETWORKS[name]
    network = made(config)
    imported = import_checkpoint(written(network, tmp_path / "theirs.pth"), overrides=HEADS)
    assert imported.config == config and imported.new == []
    state = network.state_dict()
    assert imported.state.keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in imported.state.items())


@pytest.mark.parametrize("name", ["parseda_tiny", "parsed_tiny", "tagger_tiny"])
def test_the_authors_weights_are_exported_as_they_were(shared, name, tmp_path):
    """But for what the authors' code stores and does not read; and imported again, they compute the same."""
    recording = Recording(shared / "oracle", name)
    exported = export_checkpoint(recording.network.state_dict(), recording.config)
    for key, value in recording.official.items():
        if key == "query_embed.weight":
            continue
        if recording.config.gate == "VXAc" and key.endswith(("gamma_v", "gamma_l")):
            assert torch.equal(exported[key], value[:1].expand_as(value)), key
        elif ".fc_3." in key and key.endswith("bias"):
            assert value.shape == exported[key].shape
        else:
            assert torch.equal(exported[key], value), key
    options = official_options(recording.config)
    # The recording's backbone is smaller than the option says, and was made without dropout.
    own = ("backbone", "drop_path_rate", "dropout")
    assert {k: v for k, v in options.items() if k not in own} == {k: recording.args[k] for k in options if k not in own}
    path = tmp_path / "again.pth"
    write_checkpoint(exported, recording.config, path)
    again = import_checkpoint(path, overrides={"text": {"heads": recording.config.text.heads}})
    given = targets_in(recording.forward)
    recording.network.eval()
    with torch.no_grad():
        expected = recording.decode(recording.encode(recording.texts()), given)
        recording.network = build(again.config, None).eval()
        recording.network.load_state_dict(again.state)
        found = recording.decode(recording.encode(recording.texts()), given)
    for role in ("subject_logits", "object_logits", "predicate_logits", "subject_boxes", "object_boxes"):
        assert torch.equal(getattr(found, role), getattr(expected, role)), role


def test_the_file_holds_tensors_and_plain_values_only(tmp_path):
    network = made(TAGGER)
    path = written(network, tmp_path / "tagger.pth")
    content = torch.load(path, weights_only=True)
    assert content["epoch"] == 0 and content["args"]["num_queries"] == 10 and content["args"]["verb_tagger"] is True
    assert argparse.Namespace(**content["args"]).gating_mechanism == "GLIP"
    assert content["model"]["query_embed.weight"].shape == (10, 96)
    assert written(network, tmp_path / "other name.pth").read_bytes() == path.read_bytes()


def image_and_texts() -> tuple[torch.Tensor, ...]:
    images = torch.randn(1, 3, 64, 96)
    return images, None, torch.randn(4, 16), torch.randn(3, 16)


@pytest.mark.parametrize("architecture", ["parseda", "parsed"])
def test_networks_of_our_own_compute_the_same_with_what_is_added(architecture, tmp_path):
    config = replace(SMALL, architecture=architecture, official_compat=False)
    ours = made(config)
    theirs = as_theirs(ours, tmp_path / "theirs.pth")
    assert theirs.config == replace(config, official_compat=True)
    given = image_and_texts()
    with torch.no_grad():
        here, there = ours.predict(*given), theirs.predict(*given)
    for name in ("subject_logits", "object_logits", "predicate_logits", "subject_boxes", "object_boxes"):
        torch.testing.assert_close(getattr(there, name), getattr(here, name), atol=1e-5, rtol=1e-5)
    again = import_checkpoint(tmp_path / "theirs.pth", overrides=HEADS | {"official_compat": False})
    state = ours.state_dict()
    assert again.config == config and all(torch.equal(value, state[key]) for key, value in again.state.items())


@pytest.mark.parametrize("queries", ["vanilla", "vanilla_MBF"])
def test_the_slots_of_a_tagger_of_our_own_are_equal_and_boxes_start_at_their_centres(queries, tmp_path):
    config = replace(TAGGER, relation_queries=queries, official_compat=False)
    ours = made(config)
    exported = export_checkpoint(ours.state_dict(), config)
    slots = exported["transformer.verb_tgt.weight"]
    assert torch.equal(slots[:5], ours.transformer.verb_tgt.weight[:1].expand(5, -1))
    assert torch.equal(slots[5:], ours.transformer.verb_tgt.weight[1:].expand(5, -1))
    assert ("transformer.verb_query_embed.weight" in exported) == (queries != "vanilla")
    theirs = as_theirs(ours, tmp_path / "theirs.pth")
    boxes = torch.rand(1, 5, 4) * 0.5 + 0.2
    position = theirs.transformer.coord_proj(torch.logit(boxes))
    centre = theirs.transformer.reference_points_sub(position).sigmoid()
    torch.testing.assert_close(centre, boxes[..., :2], atol=1e-4, rtol=1e-4)
    labels = torch.zeros(1, 5, dtype=torch.int64)
    scored = theirs.predict(*image_and_texts(), PairQueries(boxes, boxes, labels, labels, labels == 0))
    assert scored.predicate_logits.isfinite().all()


def test_batch_norms_of_our_own_become_frozen_ones(tmp_path):
    ours = made(replace(SMALL, backbone_norm="batch", official_compat=False))
    exported = export_checkpoint(ours.state_dict(), ours.config)
    assert not any(key.endswith("num_batches_tracked") for key in exported)
    theirs = as_theirs(ours, tmp_path / "theirs.pth")
    given = image_and_texts()
    with torch.no_grad():
        here, there = (network.predict(*given).predicate_logits for network in (ours, theirs))
    torch.testing.assert_close(there, here, atol=1e-4, rtol=1e-4)
    assert any("backbone_norm=batch" in note for note in differences(ours.config))


@pytest.mark.parametrize(
    ("changed", "setting"),
    [
        ({"fusion": "late"}, "fusion='late'"), ({"fusion": "none"}, "fusion='none'"),
        ({"backbone": "convnext_tiny"}, "backbone='convnext_tiny'"),
        ({"backbone": "resnet18"}, "backbone='resnet18'"), ({"backbone_norm": "group"}, "backbone_norm='group'"),
        ({"backbone_strides": (16, 32)}, r"backbone_strides=\(16, 32\)"),
        ({"encoder_layers": 3}, "fusion_interval=2"), ({"text": TextConfig(kind="bert")}, r"text\.kind='bert'"),
    ],
)  # fmt: skip
def test_what_their_code_cannot_be_is_refused_by_its_name(changed, setting):
    config = replace(SMALL, **changed)
    with pytest.raises(ConfigError, match=setting):
        export_checkpoint({}, config)
    with pytest.raises(ConfigError, match=setting):
        official_options(config)
