"""Folders, tars and S3 give the same rows, a bare folder is a dataset, and a network failure is no missing image."""

import errno
import os
import tarfile
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import pytest
from PIL import Image

from pipeline.data.datasets.source import DataSource
from pipeline.data.images.folders import locate_image, open_folder
from pipeline.data.images.opening import BadImage, ImageLimits, read_bytes, read_image
from pipeline.data.images.refs import state_of, uri_of
from pipeline.data.partitioning import partition_dataset
from pipeline.run.recipe import DataSection, Recipe
from pipeline.runtime.stage import Inputs
from pipeline.stages.ingest import IngestSettings, IngestStage
from storage.errors import FatalError, RetryableError
from storage.local_store import LocalStore
from storage.remote import Remote
from tests.data.toy_sets import encoded, read_all, save_json, save_picture
from tests.hostile.tars import entry, tar_of

NAMES = ("patch0/a.jpg", "patch0/b.jpg", "patch1/c.jpg")
EMPTY, LOST = "patch1/empty.jpg", "patch1/lost.jpg"
CATEGORIES = [{"id": 1, "name": "person"}]


def picture(number: int) -> bytes:
    return encoded(Image.new("RGB", (100, 80), (40 * number, 120, 60)), "JPEG")


def pack(path: Path, names: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    link = entry("patch0/link.jpg", tarfile.SYMTYPE, link="/etc/passwd")
    path.write_bytes(link + tar_of(names))
    return path


def written(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture(params=["folder", "tar", "tars", "s3"])
def images(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    """Stores the same three images in each kind of location."""
    data = {name: picture(number) for number, name in enumerate(NAMES, start=1)}
    data[EMPTY] = b""
    if request.param == "folder":
        return written(tmp_path / "images", data)
    if request.param == "tar":
        return pack(tmp_path / "all.tar", {f"./{name}": content for name, content in data.items()})
    if request.param == "tars":
        pack(tmp_path / "packed" / "patch0.tar", {n: c for n, c in data.items() if n.startswith("patch0")})
        pack(tmp_path / "packed" / "patch1.tar", {"c.jpg": data["patch1/c.jpg"], "empty.jpg": b""})
        return tmp_path / "packed"
    place = f"{request.getfixturevalue('s3')}/{tmp_path.name}"
    files = fsspec.filesystem("s3", skip_instance_cache=True)
    for name, content in data.items():
        files.pipe_file(f"{place}/{name}", content)
    return place


def source_of(images: Path | str, folder: Path) -> DataSource:
    names = (*NAMES, LOST)
    content = {
        "images": [{"id": n, "file_name": name, "width": 100, "height": 80} for n, name in enumerate(names)],
        "annotations": [{"id": n, "image_id": n, "category_id": 1, "bbox": [5, 5, 20, 20]} for n in range(4)],
        "categories": CATEGORIES,
    }
    return DataSource(
        name="toy", format="coco", images=images, annotations=save_json(folder / "instances.json", content)
    )


def ingested(source: DataSource, folder: Path) -> tuple[list[dict[str, Any]], list[tuple[int, str]], list[str]]:
    settings = IngestSettings(sources=(source,), indexes=folder / "indexes", partition_size=2)
    parts = list(IngestStage(settings).partitions(source.name, LocalStore(folder / "store")))
    outputs = [IngestStage(settings).run(Inputs({}, p.name, p.image_ids), folder, lambda *_: None) for p in parts]
    rows = [row for output in outputs for row in output.table.to_pylist()]
    rejected = [(reject.image_id, reject.reason) for output in outputs for reject in output.rejected]
    return rows, rejected, [part.digest for part in parts]


def test_rows_and_keys_are_those_of_a_folder(images, tmp_path):
    rows, rejected, digests = ingested(source_of(images, tmp_path), tmp_path)
    plain = written(tmp_path / "plain", {name: picture(number) for number, name in enumerate(NAMES, start=1)})
    expected = ingested(source_of(plain, tmp_path), tmp_path / "beside")
    assert (rows, rejected, digests) == expected
    assert [row["uri"] for row in rows] == list(NAMES) and rejected == [(3, "missing file")]
    assert ingested(source_of(images, tmp_path), tmp_path)[2] == digests


def test_files_are_found_by_uri(images):
    folder = open_folder(images)
    place = folder.place(NAMES[2])
    assert (place.name, uri_of(place, images), place.is_file()) == ("c.jpg", NAMES[2], True)
    assert read_bytes(place) == picture(3) and read_image(place).size == (100, 80)
    assert state_of(place) == state_of(folder.place(NAMES[2]))
    assert not folder.place(LOST).is_file() and not folder.place("patch0/link.jpg").is_file()
    with pytest.raises(BadImage, match="missing file"):
        read_image(folder.place(LOST))
    with pytest.raises(BadImage, match="empty file"):
        read_image(folder.place(EMPTY))
    with pytest.raises(BadImage, match="too large"):
        read_image(place, ImageLimits(max_bytes=100))
    with pytest.raises(FileNotFoundError):
        state_of(folder.place(LOST))


def test_folders_at_a_url_are_listed_once_in_whatever_order_images_come(monkeypatch):
    place, listed, really = f"memory://{uuid4().hex}", list[str](), Remote.listing
    names = [f"patch{number}/a.jpg" for number in range(51)]
    for name in names:
        fsspec.filesystem("memory").pipe_file(f"{place}/{name}", b"1")
    monkeypatch.setattr(Remote, "listing", lambda self, folder: listed.append(folder) or really(self, folder))
    for name in names * 2:
        assert state_of(open_folder(place).place(name)).size == 1
    assert len(listed) == len(names)


def test_a_rewritten_tar_is_read_anew(tmp_path):
    path = pack(tmp_path / "all.tar", {"a.jpg": picture(1)})
    place = open_folder(path).place("a.jpg")
    before = state_of(place)
    pack(path, {"b.jpg": picture(3), "a.jpg": picture(2)})
    assert read_bytes(place) == picture(2) and state_of(place) != before


def test_tars_that_can_not_be_read(tmp_path):
    whole = pack(tmp_path / "all.tar", {"a.jpg": picture(1), "b.jpg": picture(2)}).read_bytes()
    for name, data in (("torn.tar", whole[:1400]), ("text.tar", b"no tar at all" * 100)):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(FatalError, match=rf"{name}: can't be read as a tar .*complete and uncompressed"):
            open_folder(tmp_path / name).place("a.jpg").is_file()


def test_what_is_wrong_with_a_place_is_reported_before_work(s3, tmp_path):
    sources = {
        "no folder": tmp_path / "none", "no file": tmp_path / "none.tar",
        "there is no bucket 'nowhere'": "s3://nowhere/x",
    }  # fmt: skip
    for message, images in sources.items():
        (lacking,) = source_of(images, tmp_path).missing()
        assert lacking.startswith("images: ") and message in lacking


def test_a_changed_object_changes_its_state_and_a_silent_network_is_no_missing_image(s3, tmp_path, monkeypatch):
    files = fsspec.filesystem("s3", skip_instance_cache=True)
    files.pipe_file(f"{s3}/{tmp_path.name}/a.jpg", picture(1))
    folder = open_folder(f"{s3}/{tmp_path.name}")
    before = state_of(folder.place("a.jpg"))
    files.pipe_file(f"{s3}/{tmp_path.name}/a.jpg", picture(2))
    folder.refresh()
    assert state_of(folder.place("a.jpg")) != before
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("storage.remote.Remote.__init__.__defaults__", (None, ()))
    with pytest.raises(RetryableError):
        read_image(open_folder(f"{s3}/silent").place("a.jpg"))


def test_urls_stay_as_they_are_and_paths_start_from_the_root():
    sources = [
        DataSource(name=name, format="coco", images=images, annotations=Path("a.json"))
        for name, images in (("url", "s3://bucket/images"), ("path", "images"))
    ]
    data = Recipe(name="toy", data=DataSection(root=Path("data"), sources=tuple(sources))).resolved().data
    assert data.image_folders() == {"url": "s3://bucket/images", "path": Path("data/images")}
    assert data.sources[1].annotations == Path("data/a.json")


def bare(images: Path | str) -> DataSource:
    return DataSource(name="mine", format="images", images=images)


def test_every_picture_of_the_folder_and_its_subfolders_is_an_image(tmp_path):
    for name in ("b.jfif", "a.PNG", "more/c.jpeg", ".hidden/d.jpg", ".e.jpg"):
        save_picture(tmp_path / "mine" / name)
    (tmp_path / "mine" / "notes.txt").write_text("words")
    (tmp_path / "mine" / "instances.json").write_text("{}")
    for place in (f"file://{tmp_path}/mine", tmp_path / "mine"):
        reader, records = read_all(bare(place))
        assert [reader.name(record) for record in records] == ["a.PNG", "b.jfif", "more/c.jpeg"]
    assert not reader.rejects and all(record.boxes == () and record.width is None for record in records)
    assert len({record.image_id for record in records}) == 3 and all(0 <= r.image_id < 2**53 for r in records)


def test_names_in_a_tar_may_have_other_spaces_than_the_usual(tmp_path):
    names = ["a\u3000b.jpg", "Screenshot 1.02\u202fPM.jpg", "caf\u00e9 1.jpg"]
    folder = written(tmp_path / "mine", dict.fromkeys(names, picture(1)))
    with tarfile.open(tmp_path / "mine.tar", "w") as archive:
        archive.add(folder, ".")
    assert open_folder(tmp_path / "mine.tar").names() == open_folder(folder).names() == sorted(names)


def test_linked_folders_count_and_one_that_can_not_be_listed_stops_the_run(tmp_path, monkeypatch):
    save_picture(tmp_path / "elsewhere/a.jpg")
    save_picture(tmp_path / "mine/b.jpg")
    (tmp_path / "mine/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/back").symlink_to(tmp_path / "mine")
    LocalStore(tmp_path / "mine/out/store").put(tmp_path / "mine/out/store/reports/mine/images/b.jpg", b"")
    assert open_folder(tmp_path / "mine").names() == ["b.jpg", "linked/a.jpg"], "a report's images are not labelled"
    assert open_folder(tmp_path / "mine/b.jpg").fault().endswith("is a file; name a folder, or an uncompressed .tar")
    listed = os.scandir

    def scandir(path: str) -> Any:
        if Path(path).name == "linked":
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(FatalError, match=r"permission denied while listing images: Permission denied .*mine/linked"):
        open_folder(tmp_path / "mine").names()


def test_new_pictures_append_a_partition_and_no_id_changes(tmp_path):
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


def test_pictures_are_turned_as_viewers_show_them_wherever_they_are_read(tmp_path):
    images, around = tmp_path / "mine", ["top left", "top right", "bottom right", "bottom left"]
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
            places = zip(around, ((0, 0), (right, 0), (right, bottom), (0, bottom)), strict=True)
            corners += [corner for corner, place in places if image.getpixel(place) == (200, 0, 0)]
        assert corners == [*around, "top left", *around[1:]]
        assert [row["width"] for row in rows] == [100] * 4 + [80] * 4


def test_the_default_formats_keep_their_key():
    keys = IngestStage(IngestSettings()).row_settings()["limits"]["formats"]
    assert keys == ["JPEG", "PNG", "WEBP", "BMP"], "what the default was when the keys of earlier stores were made"
    assert (
        IngestStage(IngestSettings(limits=ImageLimits(formats=tuple(keys)))).row_settings()["limits"]["formats"] != keys
    )
