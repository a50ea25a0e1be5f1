"""Stage `fingerprint` on real image files."""

import hashlib
from pathlib import Path

import pytest
from PIL import Image
from run_builder import artifact

from pipeline.data.images.perceptual_hash import perceptual_hash
from pipeline.runtime.execute import WorkItem, execute
from pipeline.runtime.settings import Settings
from pipeline.runtime.stage import Inputs
from pipeline.stages.fingerprint import FingerprintStage
from storage.errors import RetryableError
from storage.keys import KeyTerms
from storage.local_store import LocalStore
from storage.tables import FINGERPRINTS, read_table, write_table
from tests.data.test_perceptual_hash import picture
from tests.data.toy_sets import encoded


def image(seed: int) -> bytes:
    return encoded(picture(seed, 160, 120), "JPEG")


@pytest.fixture
def inputs(tmp_path: Path) -> Inputs:
    """Two images, one of a single colour, one torn, and one without a file."""
    files = {1: image(1), 2: image(2), 3: encoded(Image.new("RGB", (160, 120))), 4: image(4)[:600]}
    for number, data in files.items():
        (tmp_path / f"{number}.jpg").write_bytes(data)
    rows = [{"dataset": "test", "image_id": number, "uri": f"{number}.jpg"} for number in (*files, 5)]
    return Inputs({"images": (artifact(tmp_path / "inputs", images=rows),)})


def test_each_image_has_the_hashes_of_its_bytes_and_of_its_picture_or_is_quarantined(inputs, tmp_path):
    stage = FingerprintStage(Settings(), {"test": tmp_path})
    output = stage.run(inputs, tmp_path, lambda done, total, note="": None)
    write_table(output.table, tmp_path / "fingerprints.parquet")
    rows = read_table(tmp_path / "fingerprints.parquet", FINGERPRINTS).to_pylist()
    assert [(row["dataset"], row["image_id"]) for row in rows] == [("test", 1), ("test", 2), ("test", 3)]
    assert [row["digest"] for row in rows] == [
        hashlib.sha256((tmp_path / f"{number}.jpg").read_bytes()).hexdigest() for number in (1, 2, 3)
    ]
    assert [row["phash"] for row in rows] == [perceptual_hash(image(1)), perceptual_hash(image(2)), None]
    assert rows[0]["phash"] != rows[1]["phash"]
    assert stage.describe(inputs, output.table) == {"images": 3, "without a perceptual hash": 1}
    assert [(each.image_id, each.reason) for each in output.rejected] == [(4, "truncated"), (5, "missing file")]
    assert output.rows_in == 5


def test_a_file_that_vanished_since_ingest_stops_the_step_and_leaves_nothing_under_its_key(inputs, tmp_path):
    store, stage = LocalStore(tmp_path / "store"), FingerprintStage(Settings(), {"test": tmp_path})
    item = WorkItem("fingerprint", "test/0000", KeyTerms("fingerprint", 1, {}, {}), {"images": (tmp_path / "inputs",)})
    with pytest.raises(RetryableError, match=r"test/0000: on .* 1 of the image files .*missing file, 5.jpg.*; mount"):
        execute(stage, item, store, lambda done, total, note="": None)
    (tmp_path / "5.jpg").write_bytes(image(5))
    assert execute(stage, item, store, lambda done, total, note="": None).rows_out == 4
