"""Stage `overlap`: which training images are found among the evaluation images, and when a run is refused."""

from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.runtime.stage import Inputs
from pipeline.stages.overlap import OverlapSettings, OverlapStage
from storage.artifact import Artifact
from storage.errors import FatalError
from storage.tables import FINGERPRINTS, OVERLAP, SHARD_MEMBERS, write_table

CAT, DOG, SKY = 0xF0F0_F0F0_F0F0_F0F0, 0x1234_5678_9ABC_DEF0, None


def artifact(folder: Path, name: str, rows, schema: pa.Schema) -> Artifact:
    folder.mkdir()
    write_table(pa.Table.from_pylist(rows, schema=schema), folder / f"{name}.parquet")
    return Artifact(folder)


def shard(folder: Path, dataset: str, *images) -> Artifact:
    """A shard with an image of (id, digest, hash) and its labels for each of `images`."""
    rows = []
    for image_id, digest, phash in images:
        row = {"dataset": dataset, "image_id": image_id}
        rows.append({**row, "extension": "jpg", "digest": digest, "phash": phash})
        rows.append({**row, "extension": "json", "digest": "labels", "phash": None})
    return artifact(folder, "shards", rows, SHARD_MEMBERS)


def evaluation_set(folder: Path, dataset: str, *images) -> Artifact:
    rows = [{"dataset": dataset, "image_id": i, "digest": d, "phash": h} for i, d, h in images]
    return artifact(folder, "fingerprints", rows, FINGERPRINTS)


@pytest.fixture
def inputs(tmp_path: Path) -> Inputs:
    """Shards of coco and vg, some of whose images are in the evaluation sets vcoco, hico and coco."""
    coco = shard(tmp_path / "coco", "coco", (1, "a", CAT), (2, "b", DOG), (3, "c", SKY), (4, "d", CAT ^ (0b111 << 30)))
    vg = shard(tmp_path / "vg", "vg", (1, "e", CAT ^ (1 << 63)), (9, "f", CAT ^ 0xFF), (10, "g", SKY))
    vcoco = evaluation_set(tmp_path / "vcoco", "vcoco", (3, "g", SKY), (70, "a", CAT), (71, "labels", 0))
    hico = evaluation_set(tmp_path / "hico", "hico", (80, "a", 1))
    own = evaluation_set(tmp_path / "own", "coco", (2, "h", 2))
    return Inputs({"shards": (coco, vg), "fingerprints": (vcoco, hico, own)})


def overlap(inputs: Inputs, work: Path, **settings):
    output = OverlapStage(OverlapSettings(**settings)).run(inputs, work, lambda done, total, note="": None)
    return output, [tuple(row.values()) for row in output.table.to_pylist()]


def test_every_pair_is_listed_once_by_its_surest_match(inputs, tmp_path):
    output, rows = overlap(inputs, tmp_path)
    assert rows == [
        ("coco", 1, "vcoco", 70, "same bytes", None),
        ("coco", 1, "hico", 80, "same bytes", None),
        ("coco", 2, "coco", 2, "same image id", None),
        ("coco", 4, "vcoco", 70, "near-duplicate", 3),
        ("vg", 1, "vcoco", 70, "near-duplicate", 1),
        ("vg", 10, "vcoco", 3, "same bytes", None),
    ]
    assert output.table.schema == OVERLAP
    assert output.facts == {
        "images": 7, "evaluation images": 5, "same bytes": 3, "same image id": 1, "near-duplicate": 2,
    }  # fmt: skip


def test_the_distance_decides_what_is_near(inputs, tmp_path):
    def near(distance):
        return [row[:2] for row in overlap(inputs, tmp_path, distance=distance)[1] if row[4] == "near-duplicate"]

    assert near(0) == []
    assert near(2) == [("vg", 1)]
    assert near(8) == [("coco", 4), ("vg", 1), ("vg", 9)]


def test_clean_shards_pass(tmp_path):
    clean = shard(tmp_path / "clean", "coco", (1, "a", CAT), (2, "b", SKY))
    tests = evaluation_set(tmp_path / "vcoco", "vcoco", (1, "c", DOG), (2, "d", SKY))
    output, rows = overlap(Inputs({"shards": (clean,), "fingerprints": (tests,)}), tmp_path)
    assert rows == []
    write_table(output.table, tmp_path / "overlap.parquet")
    OverlapStage(OverlapSettings()).audit(Inputs({"overlap": (Artifact(tmp_path),)}))


def test_a_run_that_trains_on_evaluation_images_is_refused_unless_allowed(inputs, tmp_path):
    output, _ = overlap(inputs, tmp_path)
    write_table(output.table, tmp_path / "overlap.parquet")
    made = Inputs({"overlap": (Artifact(tmp_path),)})
    with pytest.raises(FatalError) as caught:
        OverlapStage(OverlapSettings()).audit(made)
    message = str(caught.value)
    assert "1 of coco in coco, 1 of coco in hico, 2 of coco in vcoco, 2 of vg in vcoco" in message
    assert "coco/1 = vcoco/70 (same bytes), coco/1 = hico/80 (same bytes), coco/2 = coco/2 (same image id)" in message
    assert "coco/4" not in message
    assert "`near_duplicates`" in message and "pretrain.allow_overlap = true" in message
    OverlapStage(OverlapSettings(allow=True)).audit(made)


def test_allowing_an_overlap_recomputes_nothing():
    strict, lenient = (OverlapStage(OverlapSettings(allow=allow)) for allow in (False, True))
    assert strict.row_settings() == lenient.row_settings() == {"distance": 4}
