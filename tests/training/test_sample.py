"""Training samples survive JSON, leave out crowds and keep the strongest relations."""

import pytest

from pipeline.training.sample import SampleBox, SampleRelation, TrainingSample, strongest
from storage.errors import FatalError


def row(crowd=False):
    box = {"x": 1.0, "y": 2.0, "w": 30.0, "h": 40.5, "source_id": 7}
    return {
        "image_id": 5,
        "dataset": "scenes",
        "width": 100,
        "height": 80,
        "boxes": [
            box | {"category": "person", "crowd": False},
            box | {"category": "person", "crowd": crowd},
            box | {"category": "dog", "crowd": False},
        ],
    }


def test_a_sample_survives_json():
    sample = TrainingSample.from_row(row(), [SampleRelation(0, 2, "ride", 0.25), SampleRelation(1, 2, "look at")])
    assert TrainingSample.from_json(sample.to_json()) == sample
    assert sample.boxes[2] == SampleBox("dog", 1.0, 2.0, 30.0, 40.5)


def test_crowds_go_with_their_relations_and_the_rest_is_renumbered():
    sample = TrainingSample.from_row(row(crowd=True), [SampleRelation(0, 2, "ride"), SampleRelation(1, 2, "hold")])
    assert [box.category for box in sample.boxes] == ["person", "dog"]
    assert sample.relations == (SampleRelation(0, 1, "ride"),)


def test_the_strongest_relations_are_kept_once_each():
    relations = [SampleRelation(0, 1, "ride", 0.3), SampleRelation(0, 1, "ride", 0.8), SampleRelation(1, 0, "on", 0.5)]
    assert strongest(relations, 5) == (SampleRelation(0, 1, "ride", 0.8), SampleRelation(1, 0, "on", 0.5))
    assert strongest(relations, 1) == (SampleRelation(0, 1, "ride", 0.8),)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"{}", b'{"boxes": [{"category": "a"}], "relations": []}', b"\xff"])
def test_a_damaged_sample_is_a_clear_error(data):
    with pytest.raises(FatalError, match="pack the images again"):
        TrainingSample.from_json(data)
