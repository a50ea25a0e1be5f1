"""Stage `fingerprint` on real image files."""

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from run_builder import artifact

from pipeline.data.images.perceptual_hash import perceptual_hash
from pipeline.runtime.settings import Settings
from pipeline.runtime.stage import Inputs
from pipeline.stages.fingerprint import FingerprintStage
from storage.tables import FINGERPRINTS, read_table, write_table


def picture(seed: int) -> bytes:
    coarse = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize((160, 120), Image.Resampling.BICUBIC).save(buffer, "JPEG")
    return buffer.getvalue()


def plain() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (160, 120), (90, 120, 60)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def inputs(tmp_path: Path) -> Inputs:
    """Two images, one of a single colour, one torn, and one without a file."""
    files = {1: picture(1), 2: picture(2), 3: plain(), 4: picture(4)[:600]}
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
    assert [row["phash"] for row in rows] == [perceptual_hash(picture(1)), perceptual_hash(picture(2)), None]
    assert rows[0]["phash"] != rows[1]["phash"]
    assert stage.describe(inputs, output.table) == {"images": 3, "without a perceptual hash": 1}
    assert [(each.image_id, each.reason) for each in output.rejected] == [(4, "truncated"), (5, "missing file")]
    assert output.rows_in == 5
