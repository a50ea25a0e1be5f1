"""Stage `shard` on real image files and tables."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from pipeline.runtime.stage import Inputs
from pipeline.stages.shard import SHARD_FILE, ShardSettings, ShardStage
from pipeline.training.sample import SampleRelation, TrainingSample
from storage.artifact import Artifact
from storage.errors import FatalError
from storage.shards import ShardReader
from storage.tables import IMAGES, RELATIONS, write_table


def image_bytes(form="JPEG"):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (80, 100, 3), np.uint8)).save(buffer, form)
    return buffer.getvalue()


def box(category, crowd=False):
    return {"category": category, "x": 5.0, "y": 5.0, "w": 20.0, "h": 30.0, "crowd": crowd, "source_id": 1}


def images_row(folder: Path, image_id: int, data: bytes, boxes, relations=()):
    path = folder / f"{image_id}.jpg"
    path.write_bytes(data)
    return {
        "dataset": "scenes",
        "split": "train",
        "image_id": image_id,
        "uri": path.name,
        "digest": "",
        "width": 100,
        "height": 80,
        "boxes": boxes,
        "relations": list(relations),
    }


def scored(subject, predicate, object_, score):
    return {
        "subject": subject,
        "predicate": predicate,
        "object": object_,
        "score": score,
        "proposed": True,
        "triplet": 0,
    }


@pytest.fixture
def inputs(tmp_path: Path) -> Inputs:
    """Three good images (the second a PNG named .jpg), one truncated, one without boxes."""
    pair = [box("person"), box("dog")]
    given = [{"subject": 0, "predicate": "sitting on", "object": 1}]
    rows = [
        images_row(tmp_path, 1, image_bytes(), pair, given),
        images_row(tmp_path, 2, image_bytes("PNG"), pair),
        images_row(tmp_path, 3, image_bytes()[:900], pair),
        images_row(tmp_path, 4, image_bytes(), []),
        images_row(tmp_path, 5, image_bytes(), [box("person", crowd=True), *pair]),
    ]
    relations = [
        {"image_id": 1, "relations": [scored(0, "riding", 1, 0.6), scored(1, "near", 0, 0.1)]},
        {"image_id": 5, "relations": [scored(0, "ride", 1, 0.9), scored(1, "walking", 2, 0.21)]},
    ]
    folder = tmp_path / "inputs"
    folder.mkdir()
    write_table(pa.Table.from_pylist(rows, schema=IMAGES), folder / "images.parquet")
    write_table(pa.Table.from_pylist(relations, schema=RELATIONS), folder / "relations.parquet")
    return Inputs({"images": (Artifact(folder),), "relations": (Artifact(folder),)})


def shard(inputs: Inputs, work: Path, **settings):
    work.mkdir()
    stage = ShardStage(ShardSettings(**settings), {"scenes": work.parent})
    output = stage.run(inputs, work, lambda done, total, note="": None)
    reader = ShardReader(work / SHARD_FILE, output.table)
    samples = {i: TrainingSample.from_json(reader.read(i).members["json"]) for i in reader.image_ids}
    return output, reader, samples


def test_pseudo_labels_above_the_threshold_go_into_the_shard(inputs, tmp_path):
    output, _, samples = shard(inputs, tmp_path / "work")
    assert list(samples) == [1, 2, 5]
    assert samples[1].relations == (SampleRelation(0, 1, "ride", 0.6),)
    assert samples[2].relations == ()
    assert samples[5].relations == (SampleRelation(0, 1, "walk", 0.21),)
    assert [(r.image_id, r.reason) for r in output.rejected] == [(3, "truncated")]
    assert (output.rows_in, output.rows_out) == (4, 3)  # an image without a box is left out, not rejected
    assert output.facts == {"images": 3, "without a box": 1, "relations": 2}


def test_predicates_have_thresholds_of_their_own_and_a_pair_its_surest_label(inputs, tmp_path):
    _, _, strict = shard(inputs, tmp_path / "strict", threshold=0.05, thresholds={"near": 0.5})
    assert [r.predicate for r in strict[1].relations] == ["ride"]
    _, _, loose = shard(inputs, tmp_path / "loose", threshold=0.05)
    assert [r.predicate for r in loose[1].relations] == ["ride", "near"]


def test_labels_without_calibration_are_not_taken_for_calibrated(inputs, tmp_path):
    with pytest.raises(FatalError, match=r"shard\.confidence = 'calibrated'.*held_out"):
        shard(inputs, tmp_path / "work", confidence="calibrated")


def test_images_keep_their_bytes_and_get_the_extension_of_their_content(inputs, tmp_path):
    _, reader, _ = shard(inputs, tmp_path / "work")
    assert set(reader.read(1).members) == {"jpg", "json"}
    assert reader.read(2).members["png"] == image_bytes("PNG")


def test_given_and_no_labels(inputs, tmp_path):
    _, _, given = shard(inputs, tmp_path / "given", labels="given")
    assert given[1].relations == (SampleRelation(0, 1, "sit on", 1.0),)
    _, _, none = shard(inputs, tmp_path / "none", labels="none")
    assert not any(sample.relations for sample in none.values())


def test_equal_input_gives_equal_bytes(inputs, tmp_path):
    shard(inputs, tmp_path / "one")
    shard(inputs, tmp_path / "two")
    assert (tmp_path / "one" / SHARD_FILE).read_bytes() == (tmp_path / "two" / SHARD_FILE).read_bytes()


def test_settings_that_do_not_matter_are_not_in_the_key():
    assert ShardStage(ShardSettings()).reads == ("images", "relations")
    none, other = (ShardStage(ShardSettings(labels="none", threshold=t)) for t in (0.2, 0.3))
    assert none.reads == ("images",)
    assert none.row_settings() == other.row_settings() == {"labels": "none"}
    assert ShardStage(ShardSettings(threshold=0.3)).row_settings()["threshold"] == 0.3
