"""Settings of a training run: which are refused, and which change the key."""

import pytest
from pydantic import ValidationError

from pipeline.training.settings import TaggerSettings, TrainingSettings
from storage.errors import FatalError


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"alarm_factor": 1.0}, "greater than 1"),
        ({"alarm_window": 5}, "greater than or equal to 6"),
        ({"network": 3}, "not a table of network settings"),
        ({"network": {"width": 33}}, "width=33: must be a multiple of 32"),
        ({"network": {"widht": 64}}, "widht: unknown; allowed:"),
        ({"network": {"text": {"heads": 5}}}, "text.hidden"),
        ({"batch": 1, "processes": 2}, "can't be shared"),
        ({"lr": 0}, "greater than 0"),
        ({"epoch": 3}, "Extra inputs"),
    ],
)
def test_impossible_settings_name_the_field(values, message):
    with pytest.raises(ValidationError, match=message):
        TrainingSettings(**values)


def test_how_it_is_carried_out_is_no_part_of_the_key():
    plain = TrainingSettings()
    other = TrainingSettings(processes=4, threads=2, num_workers=3, checkpoint_every=7, device="cpu")
    assert plain.row_settings() == other.row_settings()
    assert plain.reseeded(5).row_settings() != plain.row_settings()


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
