"""A bare folder of pictures is a data set: ids follow from names, so that adding pictures moves nothing."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest
from pydantic import ValidationError

from pipeline.data.datasets.annotations import AnnotationError
from pipeline.data.datasets.source import DataSource
from pipeline.data.partitioning import partition_dataset
from storage.local_store import LocalStore
from tests.data.toy_sets import read_all, save_picture


def bare(images: Path | str) -> DataSource:
    return DataSource(name="mine", format="images", images=images)


def test_every_picture_of_the_folder_and_its_subfolders_is_an_image(tmp_path: Path) -> None:
    for name in ("b.jpg", "a.PNG", "more/c.jpeg", ".hidden/d.jpg", ".e.jpg"):
        save_picture(tmp_path / "mine" / name)
    (tmp_path / "mine" / "notes.txt").write_text("words")
    (tmp_path / "mine" / "instances.json").write_text("{}")
    reader, records = read_all(bare(tmp_path / "mine"))
    assert [reader.name(record) for record in records] == ["a.PNG", "b.jpg", "more/c.jpeg"]
    assert not reader.rejects and all(record.boxes == () and record.width is None for record in records)
    assert len({record.image_id for record in records}) == 3 and all(0 <= r.image_id < 2**53 for r in records)


def test_a_tar_is_read_like_the_folder(tmp_path: Path) -> None:
    for name in ("a.jpg", "more/b.jpg"):
        save_picture(tmp_path / "mine" / name)
    with tarfile.open(tmp_path / "mine.tar", "w") as archive:
        for name in ("a.jpg", "more/b.jpg"):
            archive.add(tmp_path / "mine" / name, name)
    (_, folder), (_, packed) = read_all(bare(tmp_path / "mine")), read_all(bare(tmp_path / "mine.tar"))
    assert [record.image_id for record in folder] == [record.image_id for record in packed]


def test_new_pictures_append_a_partition_and_no_id_changes(tmp_path: Path) -> None:
    for name in ("b.jpg", "d.jpg"):
        save_picture(tmp_path / "mine" / name)
    store = LocalStore(tmp_path / "store")

    def ids() -> dict[str, int]:
        reader, records = read_all(bare(tmp_path / "mine"))
        return {reader.name(record): record.image_id for record in records}

    def cut() -> list[tuple[int, ...]]:
        found = partition_dataset(bare(tmp_path / "mine"), 2, tmp_path / "indexes", "bytes", store)
        return [partition.image_ids for partition in found]

    before, known = cut(), ids()
    for name in ("a.jpg", "c.jpg"):
        save_picture(tmp_path / "mine" / name)
    after = cut()
    assert len(before) == 1 and after[:1] == before and len(after) == 2
    assert not set(after[0]) & set(after[1])
    assert known.items() <= ids().items()


def test_a_folder_without_pictures_is_told(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(AnnotationError, match="no usable image for data set 'mine'"):
        read_all(bare(tmp_path / "mine"))


def test_annotations_are_needed_by_every_other_format_and_refused_by_this_one(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=r"annotations: required by format 'coco'.*format = .images."):
        DataSource(name="mine", images=tmp_path)
    with pytest.raises(ValidationError, match="annotations: not used by format 'images'"):
        DataSource(name="mine", format="images", images=tmp_path, annotations=tmp_path / "a.json")
