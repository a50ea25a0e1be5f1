"""Training samples survive JSON, leave out crowds and keep the strongest relations."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from run_builder import box

from pipeline.data.images.training_view import DRAWS, Crop, TrainingView, ViewSettings, training_view
from pipeline.training.batches import load_view
from pipeline.training.sample import SampleBox, SampleRelation, TrainingSample, mirrored, strongest, viewed
from pipeline.training.task import normalised_boxes
from storage.errors import FatalError
from tests.data.toy_sets import encoded


def row(crowd=False):
    boxes = [
        box(name, 1.0, 2.0, 30.0, 40.5, 7, c) for name, c in (("person", False), ("person", crowd), ("dog", False))
    ]
    return {"image_id": 5, "dataset": "scenes", "width": 100, "height": 80, "boxes": boxes}


def test_a_sample_survives_json():
    sample = TrainingSample.from_row(row(), [SampleRelation(0, 2, "ride", 0.25), SampleRelation(1, 2, "look at")])
    unsure = replace(sample, uncertain=(SampleRelation(2, 0, "carry", 0.2),))
    assert TrainingSample.from_json(sample.to_json()) == sample and b"uncertain" not in sample.to_json()
    assert TrainingSample.from_json(unsure.to_json()) == unsure
    assert sample.boxes[2] == SampleBox("dog", 1.0, 2.0, 30.0, 40.5)


def test_crowds_go_with_their_relations_and_the_rest_is_renumbered():
    relations = [SampleRelation(0, 2, "ride"), SampleRelation(1, 2, "hold")]
    sample = TrainingSample.from_row(row(crowd=True), relations, uncertain=relations)
    assert [box.category for box in sample.boxes] == ["person", "dog"]
    assert sample.relations == sample.uncertain == (SampleRelation(0, 1, "ride"),)


def test_the_strongest_relations_are_kept_once_each():
    relations = [SampleRelation(0, 1, "ride", 0.3), SampleRelation(0, 1, "ride", 0.8), SampleRelation(1, 0, "on", 0.5)]
    assert strongest(relations, 5) == (SampleRelation(0, 1, "ride", 0.8), SampleRelation(1, 0, "on", 0.5))
    assert strongest(relations, 1) == (SampleRelation(0, 1, "ride", 0.8),)


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"boxes": [{"category": "a"}], "relations": []}', b"\xff"])
def test_a_damaged_sample_is_a_clear_error(data):
    with pytest.raises(FatalError, match="pack the images again"):
        TrainingSample.from_json(data)


PAPER = {"image_size": 1333, "shortest": tuple(range(480, 801, 32)), "crop": 0.8, "colour": 0.0}
RED = (255, 0, 0)


def sample(*boxes: SampleBox, relations: tuple[SampleRelation, ...] = ()) -> TrainingSample:
    return TrainingSample(1, "toy", 320, 200, boxes, relations)


@pytest.mark.parametrize("official", [False, True])
def test_a_box_is_where_its_object_is_seen(official):
    image = Image.new("RGB", (320, 200))
    image.paste(RED, (150, 40, 230, 110))
    data = encoded(image)
    settings = ViewSettings(**PAPER, official=official)
    seen = 0
    for row in np.random.default_rng(0).random((40, DRAWS)):
        view = training_view(row, 320, 200, settings)
        found = viewed(sample(SampleBox("red", 150, 40, 80, 70)), view)
        rows, columns = np.nonzero(load_view(data, view)[0].numpy() > 127)
        assert len(found.boxes) == bool(len(rows))
        for seen_box in found.boxes:
            seen += 1
            edges = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert edges == pytest.approx(
                [seen_box.x, seen_box.y, seen_box.x + seen_box.w, seen_box.y + seen_box.h], abs=2
            )
        assert (found.width, found.height) == (view.width, view.height)
    assert seen > 20


def test_boxes_that_are_cut_away_go_with_their_relations_and_the_rest_is_renumbered():
    boxes = (SampleBox("gone", 0, 0, 50, 200), SampleBox("cut", 40, 20, 40, 50), SampleBox("whole", 60, 20, 50, 50))
    relations = tuple(SampleRelation(s, o, "touch", 0.5) for s, o in [(0, 1), (1, 2), (2, 0), (2, 1)])
    found = viewed(sample(*boxes, relations=relations), TrainingView(200, 100, Crop(50, 10, 100, 100)))
    assert found.boxes == (SampleBox("cut", 0, 10, 60, 50), SampleBox("whole", 20, 10, 100, 50))
    assert found.relations == (SampleRelation(0, 1, "touch", 0.5), SampleRelation(1, 0, "touch", 0.5))


def test_boxes_without_area_are_dropped_from_whole_images_too():
    boxes = (SampleBox("flat", 10, 10, 50, 0), SampleBox("cup", 10, 10, 50, 20))
    relations = (SampleRelation(0, 1, "on"), SampleRelation(1, 1, "near"))
    found = viewed(replace(sample(*boxes, relations=relations), uncertain=relations), TrainingView(320, 192))
    assert [box.category for box in found.boxes] == ["cup"]
    assert found.relations == found.uncertain == (SampleRelation(0, 0, "near"),)


def test_left_and_right_change_places_unless_official():
    given = sample(
        SampleBox("cup", 0, 0, 20, 20), SampleBox("cat", 50, 0, 20, 20), relations=(SampleRelation(0, 1, "left of"),)
    )
    ours, official = (
        viewed(given, TrainingView(320, 200, mirrored=True, official=official)) for official in (False, True)
    )
    assert ours.relations == (SampleRelation(0, 1, "right of"),)
    assert official.relations == given.relations
    assert ours.boxes == official.boxes == (SampleBox("cup", 300, 0, 20, 20), SampleBox("cat", 250, 0, 20, 20))


@pytest.mark.parametrize("turned", [False, True])
def test_shares_of_a_whole_image_do_not_depend_on_its_size(turned):
    given = sample(SampleBox("cup", 12.5, 3, 77, 41), SampleBox("cat", 300, 150, 20, 50))
    found = viewed(given, TrainingView(192, 128, mirrored=turned))
    expected = normalised_boxes(mirrored(given) if turned else given)
    assert normalised_boxes(found) == pytest.approx(expected, abs=1e-6)
