"""Cached records equal those in the annotations, which are parsed once and again only when they change."""

import errno
import json
import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from faulty_disk import flip

from pipeline.cli.store import damaged_files
from pipeline.data.datasets.annotations import AnnotationError
from pipeline.data.datasets.json_stream import stream_lists
from pipeline.data.datasets.record_index import damaged_indexes, is_indexed, open_index, open_source
from pipeline.data.images.opening import fingerprint
from pipeline.data.partitioning import partition_dataset
from storage.disk import Disk
from storage.errors import FatalError
from storage.local_store import LocalStore
from tests.data.test_coco import box, pair
from tests.data.toy_sets import save_json

IMAGES = [
    {"id": 7, "file_name": "a.jpg", "width": 100, "height": 80}, {"id": 3, "file_name": "sub/ü b.jpg"},
    {"id": -5, "file_name": "c.jpg"}, {"id": 2**60, "file_name": "d.jpg"},
]  # fmt: skip
BOXES = [
    box(1, 18, [1, 2, 3.25, 1 / 3]), box(2, 1, [float("nan"), 1e300, float("inf"), 8], 3), box(3, 1, "none", 2**60),
    box(4, "x", [0, 0, 9, 9], 2**60), box(5, 1, [0, 0, 9, 9], iscrowd=1), box(6, 77, [0, 0, 9, 9], -5),
    box(7, 1, [0, 0, 9, 9], 404), {"bbox": 3},
]  # fmt: skip
RELATIONS = [{"image_id": 7, "relations": [pair("hold obj", "dog", [1, 2, 4, 5]), "nonsense"]}]


def test_an_index_gives_back_what_the_reader_reads(coco, tmp_path):
    source = coco(IMAGES, BOXES, RELATIONS)
    reader = open_source(source)
    records = list(reader.read())
    for folder in (tmp_path / "kept", None, tmp_path / "kept"):
        index = open_index(source, folder)
        assert repr(list(index)) == repr(records)  # NaN is not equal to itself
        assert index.lost == reader.rejects
        assert index.ids.tolist() == [7, 3, -5, 2**60]
        assert index.present([5, 3, 2**60, -9, 7]) == (3, 2**60, 7)
        assert [record.image_id for record in index.records([-5, 7])] == [-5, 7]
        assert list(index.refs([3])) == [source.images / "sub" / "ü b.jpg"]


def test_a_full_disk_is_reported_and_leaves_nothing(coco, tmp_path, monkeypatch):
    def full(disk: Disk, path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    source, kept = coco(IMAGES, BOXES), tmp_path / "kept"
    kept.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(Disk, "sync_file", full)
        with pytest.raises(FatalError, match=r"disk full while reading the annotations of .* into .*kept.*free space"):
            open_index(source, kept)
    assert list(kept.iterdir()) == []
    assert len(list(open_index(source, kept))) == len(IMAGES)


def test_annotations_are_parsed_once(coco, tmp_path, monkeypatch):
    source = coco(IMAGES, BOXES)
    first = list(map(repr, open_index(source, tmp_path / "kept")))
    moved = source.model_copy(update={"annotations": source.annotations.rename(tmp_path / "elsewhere.json")})
    monkeypatch.setattr("pipeline.data.datasets.coco.stream_lists", lambda *_: pytest.fail("parsed again"))
    assert list(map(repr, open_index(moved, tmp_path / "kept"))) == first
    monkeypatch.setattr("pipeline.data.datasets.coco.stream_lists", stream_lists)
    save_json(moved.annotations, {**json.loads(moved.annotations.read_text()), "annotations": BOXES[:1]})
    assert sum(len(record.boxes) for record in open_index(moved, tmp_path / "kept")) == 1


def test_how_far_the_reading_is_gets_told_and_a_kept_index_still_needs_one_of_the_images(coco, tmp_path):
    source = coco(IMAGES, BOXES)
    reported: list[float] = []
    assert not is_indexed(source, tmp_path / "kept")
    open_index(source, tmp_path / "kept", reported.append)
    assert reported == sorted(reported) and 0 < reported[0] <= 0.5 and reported[-1] == 1.0
    assert is_indexed(source, tmp_path / "kept") and is_indexed(source, None)
    for path in source.images.rglob("*.jpg"):
        path.unlink()
    with pytest.raises(AnnotationError, match="none of the 4 images"):
        open_index(source, tmp_path / "kept").require_one_image()


def test_old_indexes_and_halves_of_the_killed_are_removed(coco, tmp_path):
    source = coco(IMAGES, BOXES)
    first = open_index(source, tmp_path / "kept").folder
    half = first.with_name(f".{first.name}.left")
    other = first.with_name("toy-more-" + "a" * 24)
    gone = first.with_name(f".{first.name}.gone")
    gone.symlink_to("nowhere")  # cannot be looked at, like what another process has removed meanwhile
    for folder in (half, other):
        folder.mkdir()
    for folder in (first, half, other):
        os.utime(folder, (1, 1))
    save_json(source.annotations, {**json.loads(source.annotations.read_text()), "annotations": BOXES[:1]})
    second = open_index(source, tmp_path / "kept").folder
    assert sorted((tmp_path / "kept").iterdir()) == sorted([second, other, gone])


FILES = ["records.parquet", "records.seal"]


@pytest.mark.parametrize("file", FILES)
def test_a_file_that_is_damaged_cut_or_gone_is_found_and_the_index_is_rebuilt_on_use(file, coco, tmp_path):
    source = coco(IMAGES, BOXES)
    index = open_index(source, tmp_path / "kept")
    whole, path = list(index), index.folder / file
    original = path.read_bytes()
    for bit in range(0, 8 * len(original), 8 * len(original) // 4):
        flip(path, (bit + bit % 7) // 8, (bit + bit % 7) % 8)
        ((folder, what),) = damaged_indexes(tmp_path / "kept")
        assert folder == index.folder and what
        again = open_index(source, tmp_path / "kept")
        assert (list(again), again.lost) == (whole, index.lost)
        assert path.read_bytes() == original
    assert [what for _, what in damaged_indexes(tmp_path / "kept")] == [""]
    for break_it in (lambda: path.write_bytes(original[:-3]), path.unlink):
        break_it()
        assert [bool(what) for _, what in damaged_indexes(tmp_path / "kept")] == [True]
        assert list(open_index(source, tmp_path / "kept")) == whole


def test_a_bit_that_flips_while_an_index_is_open_is_found_and_mended_from_the_same_annotations_alone(coco, tmp_path):
    source = coco(IMAGES, BOXES)
    index = open_index(source, tmp_path / "kept")
    whole, path = list(index), index.folder / "records.parquet"
    names = pq.ParquetFile(path).metadata.row_group(0).column(1)
    last = names.data_page_offset + names.total_compressed_size - 1
    flip(path, last, 3)
    assert list(index) == whole
    source.annotations.write_text(source.annotations.read_text() + " ")
    flip(path, last, 3)
    with pytest.raises(AnnotationError, match="its annotations have changed since it was built; run again"):
        list(index)


def test_digests_of_partitions_that_changed_on_the_disk_are_computed_again(coco, tmp_path, monkeypatch):
    source = coco(IMAGES, BOXES)
    monkeypatch.setattr("pipeline.data.partitioning._SETTLED_NS", -(10**12))
    first = digests(source, tmp_path)
    (kept,) = (tmp_path / "indexes").glob("*-digests.json")
    assert list(damaged_files(LocalStore(tmp_path))) == []
    original = kept.read_bytes()
    for bit in range(0, 8 * len(original), 797):
        flip(kept, bit // 8, bit % 8)
        assert [(found.path, found.is_cache) for found in damaged_files(LocalStore(tmp_path))] == [(kept, True)]
        assert digests(source, tmp_path) == first
        kept.write_bytes(original)


def test_datasets_of_the_same_files_have_rows_of_their_own(coco, tmp_path):
    """Rows name their dataset, so that neither a second name nor a new one may find the rows of another."""
    source = coco(IMAGES, BOXES)
    other = source.model_copy(update={"name": "other"})
    assert not set(digests(source, tmp_path)) & set(digests(other, tmp_path))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_costs_another_reading(coco, tmp_path):
    source = coco(IMAGES, BOXES)
    (tmp_path / "kept").mkdir(mode=0o555)
    assert len(list(open_index(source, tmp_path / "kept"))) == 4


def digests(source, folder: Path, by: str = "bytes") -> list[str]:  # type: ignore[no-untyped-def]
    found = partition_dataset(source, 2, folder / "indexes", by, LocalStore(folder / "store"))  # type: ignore[arg-type]
    return [partition.digest for partition in found]


def watched(patch: pytest.MonkeyPatch) -> list[str]:
    """The names of images whose bytes are read from now on."""
    asked: list[str] = []

    def read(ref, by, **more):  # type: ignore[no-untyped-def]
        asked.append(ref.name)
        return fingerprint(ref, by, **more)

    patch.setattr("pipeline.data.partitioning.fingerprint", read)
    return asked


def test_planning_reads_an_image_again_only_when_it_changed(coco, tmp_path, monkeypatch):
    source = coco(IMAGES, BOXES)
    monkeypatch.setattr("pipeline.data.partitioning._SETTLED_NS", -(10**12))
    first = digests(source, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.data.partitioning.fingerprint", lambda *_, **__: pytest.fail("read again"))
        assert digests(source, tmp_path) == first
    changed = source.images / "c.jpg"
    before = changed.stat()
    flip(changed, -3)
    os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns))
    second = digests(source, tmp_path)
    assert second[0] == first[0] and second[1] != first[1]
    changed.unlink()
    assert digests(source, tmp_path)[1] not in (first[1], second[1])
    assert digests(source, tmp_path, "stat")[0] != first[0]


def test_after_new_annotations_images_are_read_again_where_a_partition_states_something_else(
    coco, tmp_path, monkeypatch
):
    source = coco(IMAGES, BOXES)
    monkeypatch.setattr("pipeline.data.partitioning._SETTLED_NS", -(10**12))
    first = digests(source, tmp_path)
    save_json(source.annotations, {**json.loads(source.annotations.read_text()), "annotations": BOXES[1:]})
    with monkeypatch.context() as patch:
        asked = watched(patch)
        second = digests(source, tmp_path)
    assert asked == ["a.jpg", "ü b.jpg"]
    assert second[0] != first[0] and second[1] == first[1]
    assert second == digests(source, tmp_path / "fresh")
    changed = source.images / "d.jpg"
    changed.write_bytes(changed.read_bytes() + b"more")
    save_json(source.annotations, {**json.loads(source.annotations.read_text()), "annotations": BOXES})
    assert digests(source, tmp_path) == digests(source, tmp_path / "again") != first


def test_what_changed_just_now_is_not_remembered(coco, tmp_path, monkeypatch):
    source = coco(IMAGES, BOXES)
    digests(source, tmp_path)
    asked = watched(monkeypatch)
    digests(source, tmp_path)
    assert asked == ["a.jpg", "ü b.jpg", "c.jpg", "d.jpg"]
