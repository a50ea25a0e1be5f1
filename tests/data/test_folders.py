"""Images in tars and on S3 give the same rows as in a folder, and a network failure is never a missing image."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import fsspec
import pytest
from PIL import Image

from pipeline.data.datasets.source import DataSource
from pipeline.data.images.folders import open_folder
from pipeline.data.images.opening import BadImage, ImageLimits, read_bytes, read_image
from pipeline.data.images.refs import state_of, uri_of
from pipeline.run.recipe import DataSection, Recipe
from pipeline.runtime.stage import Inputs
from pipeline.stages.ingest import IngestSettings, IngestStage
from storage.errors import FatalError, RetryableError
from storage.local_store import LocalStore
from tests.data.toy_sets import save_json

NAMES = ("patch0/a.jpg", "patch0/b.jpg", "patch1/c.jpg")
EMPTY, LOST = "patch1/empty.jpg", "patch1/lost.jpg"
CATEGORIES = [{"id": 1, "name": "person"}]


def picture(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (100, 80), (40 * number, 120, 60)).save(buffer, "JPEG")
    return buffer.getvalue()


def pack(path: Path, names: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in names.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        link = tarfile.TarInfo("patch0/link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    return path


@pytest.fixture(params=["folder", "tar", "tars", "s3"])
def images(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    """Stores the same three images in each kind of location."""
    data = {name: picture(number) for number, name in enumerate(NAMES, start=1)}
    data[EMPTY] = b""
    if request.param == "folder":
        for name, content in data.items():
            (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "images" / name).write_bytes(content)
        return tmp_path / "images"
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


def test_rows_and_keys_are_those_of_a_folder(images: Path | str, tmp_path: Path) -> None:
    rows, rejected, digests = ingested(source_of(images, tmp_path), tmp_path)
    plain = tmp_path / "plain"
    for number, name in enumerate(NAMES, start=1):
        (plain / name).parent.mkdir(parents=True, exist_ok=True)
        (plain / name).write_bytes(picture(number))
    expected = ingested(source_of(plain, tmp_path), tmp_path / "beside")
    assert (rows, rejected, digests) == expected
    assert [row["uri"] for row in rows] == list(NAMES) and rejected == [(3, "missing file")]
    assert ingested(source_of(images, tmp_path), tmp_path)[2] == digests


def test_files_are_found_by_uri(images: Path | str) -> None:
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


def test_a_rewritten_tar_is_read_anew(tmp_path: Path) -> None:
    path = pack(tmp_path / "all.tar", {"a.jpg": picture(1)})
    place = open_folder(path).place("a.jpg")
    before = state_of(place)
    pack(path, {"b.jpg": picture(3), "a.jpg": picture(2)})
    assert read_bytes(place) == picture(2) and state_of(place) != before


def test_tars_that_can_not_be_read(tmp_path: Path) -> None:
    whole = pack(tmp_path / "all.tar", {"a.jpg": picture(1), "b.jpg": picture(2)}).read_bytes()
    for name, data in (("torn.tar", whole[:900]), ("text.tar", b"no tar at all" * 100)):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(FatalError, match=rf"{name}: can't be read as a tar .*complete and uncompressed"):
            open_folder(tmp_path / name).place("a.jpg").is_file()


def test_a_changed_object_changes_its_state(s3: str, tmp_path: Path) -> None:
    files = fsspec.filesystem("s3", skip_instance_cache=True)
    files.pipe_file(f"{s3}/{tmp_path.name}/a.jpg", picture(1))
    folder = open_folder(f"{s3}/{tmp_path.name}")
    before = state_of(folder.place("a.jpg"))
    files.pipe_file(f"{s3}/{tmp_path.name}/a.jpg", picture(2))
    folder.refresh()
    assert state_of(folder.place("a.jpg")) != before


def test_what_is_wrong_with_a_place_is_told_before_work(s3: str, tmp_path: Path) -> None:
    sources = {
        "no folder": tmp_path / "none", "no file": tmp_path / "none.tar", "there is no bucket 'nowhere'": "s3://nowhere/x",
    }  # fmt: skip
    for message, images in sources.items():
        (lacking,) = source_of(images, tmp_path).missing()
        assert lacking.startswith("images: ") and message in lacking


def test_a_silent_network_is_no_missing_image(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("storage.remote.Remote.__init__.__defaults__", (None, ()))
    with pytest.raises(RetryableError):
        read_image(open_folder(f"{s3}/silent").place("a.jpg"))


def test_urls_stay_as_they_are_and_paths_start_from_the_root() -> None:
    sources = [
        DataSource(name=name, format="coco", images=images, annotations=Path("a.json"))
        for name, images in (("url", "s3://bucket/images"), ("path", "images"))
    ]
    data = Recipe(name="toy", data=DataSection(root=Path("data"), sources=tuple(sources))).resolved().data
    assert data.image_folders() == {"url": "s3://bucket/images", "path": Path("data/images")}
    assert data.sources[1].annotations == Path("data/a.json")
