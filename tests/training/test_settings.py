"""Settings of a training run: which are refused, and which change the key."""

import pytest
from pydantic import ValidationError

from pipeline.training.config import TrainConfig
from pipeline.training.settings import TaggerSettings, TrainingSettings
from storage.errors import FatalError


@pytest.mark.parametrize("values, message", [
    ({"alarm_factor": 1.0}, "greater than 1"),
    ({"alarm_window": 5}, "greater than or equal to 6"),
    ({"network": 3}, "not a table of network settings"),
    ({"network": {"width": 33}}, "width=33: must be a multiple of 32"),
    ({"network": {"widht": 64}}, "widht: unknown; allowed:"),
    ({"network": {"text": {"heads": 5}}}, "text.hidden"),
    ({"lr": 0}, "greater than 0"),
    ({"epoch": 3}, "Extra inputs"),
    ({"batch": 10, "micro_batch": 4}, "10 images aren't a multiple of micro_batch = 4"),
    ({"batch": 8, "micro_batch": 8, "processes": 2}, "in micro-batches of 8 can't be shared by processes = 2"),
    ({"evaluate_every": 5, "parallel": "fsdp"}, "each process evaluates with the whole network"),
    ({"deterministic": "fast", "parallel": "tree"}, 'deterministic: parallel = "tree" guarantees the same bits'),
    ({"lr_backbone": 0, "network": {"backbone_norm": "batch"}, "processes": 1}, "lr_backbone: 0 freezes the backbone"),
    ({"compile": True, "parallel": "fsdp"}, "compile: torch.compile fails"),
    ({"nodes": 2}, "address: nodes = 2 need an address"),
    ({"nodes": 2, "address": "0.0.0.0:1"}, "means all interfaces"),
    ({"address": "node7"}, "is not of the form HOST:PORT"),
    ({"nodes": 2, "address": "node7:1", "min_nodes": 3}, "min_nodes: 3 is more than nodes = 2"),
    ({"parallel": "fsdp", "nodes": 4, "min_nodes": 2, "address": "node7:1"}, "8 micro-batches .* multiple of 6 proc"),
    ({"batch": 4, "micro_batch": 1, "nodes": 4, "address": "node7:1", "processes": 2}, "or fewer processes"),
])  # fmt: skip
def test_impossible_settings_name_the_field(values, message):
    with pytest.raises(ValidationError, match=message):
        TrainingSettings(**values)


def test_how_it_is_carried_out_is_no_part_of_the_key():
    plain = TrainingSettings()
    other = TrainingSettings(processes=4, threads=2, num_workers=3, deterministic="fast", device="cpu")
    assert plain.row_settings() == other.row_settings()
    assert plain.model_copy(update={"seed": 5}).row_settings() != plain.row_settings()


def test_the_network_is_written_out_in_full():
    network = TrainingSettings(network={"width": 64}).row_settings()["network"]
    assert network["width"] == 64 and network["encoder_layers"] == 6 and network["text"]["hidden"] == 768


def test_the_tagger_is_always_a_tagger_with_the_released_differences():
    network = TaggerSettings(network={"width": 64}).network
    assert network.tagger and network.architecture == "parsed" and network.gate == "GLIP"
    assert TaggerSettings().loss.localised_predicates is False


def test_files_that_are_missing_are_named(tmp_path):
    with pytest.raises(FatalError, match=r"pretrained = .*no such file"):
        TrainingSettings(pretrained=tmp_path / "none.safetensors").files()
    assert TrainingSettings().files() == {}
    with pytest.raises(FatalError, match=r"tokenizer: none can be made for network\.text\.kind = 'bert'"):
        TrainingSettings(network={"text": {"kind": "bert"}}).files()


def test_pretrained_weights_come_with_their_tokenizer(root, tmp_path):
    beside = root / "scenes/weights/detector"
    found = TrainingSettings(pretrained=beside / "model.safetensors").files()
    assert found["vocab.json"] == beside / "vocab.json" and found["merges.txt"] == beside / "merges.txt"
    other = TrainingSettings(pretrained=beside / "model.safetensors", tokenizer=tmp_path).files()
    assert other == {"initial": beside / "model.safetensors", "tokenizer": tmp_path}
    (tmp_path / "alone.safetensors").touch()
    with pytest.raises(FatalError, match="no tokenizer is next to it"):
        TrainingSettings(pretrained=tmp_path / "alone.safetensors").files()


def test_the_authors_way_is_chosen_by_one_setting():
    official = TrainingSettings(official=True)
    assert official.network.official_compat and not official.self_pairs and official.predicate_form == "surface"
    assert official.shortest[0] == 480 and official.crop == 0.5 and official.bucket == 1
    assert TrainingSettings(official=True, bucket=16).bucket == 16
    assert TaggerSettings(official=True).network.official_compat


@pytest.mark.parametrize(
    ("shortest", "largest", "seen"), [((480, 800), 1333, 1067), ((480, 800), 640, 640), ((), 640, 640)]
)
def test_whole_images_are_seen_as_large_as_in_training(shortest, largest, seen):
    assert TrainingSettings(shortest=shortest, image_size=largest).whole_size == seen


def test_a_node_runs_only_modules_of_the_project(tmp_path):
    terms = TrainConfig(settings=TrainingSettings(), work=tmp_path).model_dump(mode="json")
    assert TrainConfig.model_validate(terms | {"worker": "pipeline.stages.pretrain_worker"}).work == tmp_path
    for foreign in ("os", "out.store.evil", "pipeline.training.worker; import os"):
        with pytest.raises(ValidationError, match="worker"):
            TrainConfig.model_validate(terms | {"worker": foreign})
