"""A bare folder of images is a dataset: ids follow from names, so that adding images moves nothing."""

from __future__ import annotations

import tarfile
from hashlib import sha256
from pathlib import Path

import pytest
from PIL import Image

from pipeline.data.datasets.annotations import AnnotationError
from pipeline.data.datasets.bare_images import id_of_name
from pipeline.data.datasets.source import DataSource
from pipeline.data.images.folders import locate_image
from pipeline.data.images.opening import ImageLimits, read_image
from pipeline.data.partitioning import partition_dataset
from pipeline.run.recipe import DataSection
from pipeline.runtime.stage import Inputs
from pipeline.stages.ingest import IngestSettings, IngestStage
from storage.digests import digest_json
from storage.local_store import LocalStore
from tests.data.toy_sets import read_all, save_json, save_picture


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


def test_new_pictures_append_a_partition_and_no_id_changes(tmp_path: Path) -> None:
    for name in ("b.jpg", "d.jpg"):
        save_picture(tmp_path / "mine" / name)
    store = LocalStore(tmp_path / "store")

    def ids() -> dict[str, int]:
        reader, records = read_all(bare(tmp_path / "mine"))
        return {reader.name(record): record.image_id for record in records}

    def partitions() -> list[tuple[int, ...]]:
        found = partition_dataset(bare(tmp_path / "mine"), 2, tmp_path / "indexes", "bytes", store)
        return [partition.image_ids for partition in found]

    before, known = partitions(), ids()
    for name in ("a.jpg", "c.jpg"):
        save_picture(tmp_path / "mine" / name)
    after = partitions()
    assert len(before) == 1 and after[:1] == before and len(after) == 2
    assert not set(after[0]) & set(after[1])
    assert known.items() <= ids().items()


def test_pictures_are_turned_as_viewers_show_them_wherever_they_are_read(tmp_path: Path) -> None:
    images = tmp_path / "mine"
    images.mkdir()
    picture = Image.new("RGB", (100, 80), (255, 255, 255))
    picture.paste((200, 0, 0), (0, 0, 50, 40))
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        picture.save(images / f"{orientation}.png", exif=exif)
    with tarfile.open(tmp_path / "mine.tar", "w") as archive:
        archive.add(images, ".")
    for root in (images, tmp_path / "mine.tar"):
        source = bare(root)
        folders = DataSection(sources=(source,)).image_folders()
        ids = tuple(record.image_id for record in read_all(source)[1])
        stage = IngestStage(IngestSettings(sources=(source,)))
        rows = stage.run(Inputs({}, "mine/0000", ids), tmp_path, lambda *_: None).table.to_pylist()
        assert [row["uri"] for row in rows] == [f"{orientation}.png" for orientation in range(1, 9)]
        corners = []
        for row in rows:
            image = read_image(locate_image(folders, row))
            assert image.size == (row["width"], row["height"])
            right, bottom = image.width - 1, image.height - 1
            places = {
                "top left": (0, 0),
                "top right": (right, 0),
                "bottom right": (right, bottom),
                "bottom left": (0, bottom),
            }
            corners += [corner for corner, place in places.items() if image.getpixel(place) == (200, 0, 0)]
        around = ["top left", "top right", "bottom right", "bottom left"]
        assert corners == [*around, "top left", *around[1:]]
        assert [row["width"] for row in rows] == [100] * 4 + [80] * 4


def test_a_folder_of_an_earlier_version_is_ingested_again_and_annotated_sets_are_not(tmp_path: Path) -> None:
    save_picture(tmp_path / "mine" / "a.jpg")
    stated = save_json(
        tmp_path / "set.json", {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [], "categories": []}
    )
    annotated = DataSource(name="mine", images=tmp_path / "mine", annotations=stated)
    store = LocalStore(tmp_path / "store")
    digests = [
        next(iter(partition_dataset(source, 2, None, "bytes", store))).digest
        for source in (annotated, bare(tmp_path / "mine"))
    ]
    file = sha256((tmp_path / "mine" / "a.jpg").read_bytes()).hexdigest()

    def before(image_id: int) -> str:
        return digest_json(["train", [[image_id, "a.jpg", None, None, [], [], [], file]], []])

    assert digests[0] == before(1)
    assert digests[1] != before(id_of_name("a.jpg"))
    keys = IngestStage(IngestSettings()).row_settings()["limits"]["formats"]
    assert keys == ["JPEG", "PNG", "WEBP", "BMP"], "what the default was when the keys of earlier stores were made"
    assert (
        IngestStage(IngestSettings(limits=ImageLimits(formats=tuple(keys)))).row_settings()["limits"]["formats"] != keys
    )


def test_a_folder_without_pictures_is_told(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(AnnotationError, match="no usable image for dataset 'mine'"):
        read_all(bare(tmp_path / "mine"))
