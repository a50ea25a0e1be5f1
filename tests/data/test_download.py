"""Downloads resume, verify and unpack; an error is one message; and the layout is what the recipes look for."""

import functools
import gzip
import hashlib
import io
import json
import os
import re
import socket
import tarfile
import threading
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from rlip_command import rlip
from typer.testing import Result

from pipeline.cli.data import get_data
from pipeline.data import download as download_module
from pipeline.data.catalogue import CATALOGUE, PublicFile, where_to_get
from pipeline.data.download import ATTEMPTS, download, gunzip, mirrored, unpack
from pipeline.data.images.folders import open_folder
from pipeline.data.images.refs import read_first
from pipeline.run.recipe_files import load_recipe
from storage.errors import FatalError, RetryableError
from tests.hostile.tars import base256, entry, pax, plain, tar_of

CONTENT = bytes(range(256)) * 4096
MEBIBYTE = len(CONTENT)


class Server:
    """A loopback web server. `cut` ends the next responses after so many bytes, `refuse` drops the next connections."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.cut: list[int] = []
        self.refuse = 0
        self.busy = 0
        self.ranges = True
        self.shift = 0
        self.tag: str | None = '"{}"'
        self.redirect: dict[str, tuple[str, str]] = {}
        self.asked: list[str | None] = []
        self.sent = 0
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Handler, self))
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, server: Server, *rest: Any) -> None:
        self.all = server
        super().__init__(*rest)

    def do_GET(self) -> None:
        self.close_connection = True
        name, server = urlsplit(self.path).path, self.all
        server.asked.append(self.headers.get("Range"))
        if server.refuse:
            server.refuse -= 1
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        if server.busy:
            server.busy -= 1
            self.send_error(503)
            return
        if name in server.redirect:
            target, tag = server.redirect[name]
            self.send_response(302)
            self.send_header("Location", target)
            self.send_header("X-Linked-ETag", f'"{tag}"')
            self.send_header("Content-Length", "0")
            self.send_header("Connection", "close")  # or the client may ask this one for the target, too
            self.end_headers()
            return
        if name not in server.files:
            self.send_error(404)
            return
        self._send(server.files[name])

    def _send(self, data: bytes) -> None:
        server = self.all
        tag = None if server.tag is None else server.tag.format(hashlib.md5(data).hexdigest())
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        start = int(asked[1]) if asked and server.ranges and self.headers.get("If-Range") == tag else 0
        shift = server.shift if start else 0
        start, data = start - shift, data[: len(data) - shift]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        if tag is not None:
            self.send_header("ETag", tag)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        end = start + server.cut.pop(0) if server.cut else len(data)
        # Counted before it is written: a client that has it all may look at once.
        server.sent += len(data[start:end])
        self.wfile.write(data[start:end])

    def log_message(self, *parts: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.stop()


def _never(seconds: float) -> None:
    raise AssertionError(f"paused for {seconds} s")


class _StoppedError(Exception):
    pass


def _stop_at(count: int) -> Callable[[int, int | None], None]:
    """Ends a download as Ctrl-C does, once `count` bytes have arrived."""

    def report(done: int, total: int | None) -> None:
        if done >= count:
            raise _StoppedError

    return report


def _names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_whole_file_is_downloaded_with_progress(server, tmp_path):
    server.files["/a/big.bin"] = CONTENT * 3
    seen: list[tuple[int, int | None]] = []
    path = tmp_path / "new" / "big.bin"
    download(f"{server.url}/a/big.bin", path, report=lambda *step: seen.append(step), sleep=_never)
    assert path.read_bytes() == CONTENT * 3
    assert seen[0] == (0, 3 * MEBIBYTE) and seen[-1] == (3 * MEBIBYTE, 3 * MEBIBYTE)
    assert seen == sorted(seen)
    assert _names(tmp_path) == {"new/big.bin"}


@pytest.fixture
def stopped(server: Server, tmp_path: Path) -> tuple[str, Path]:
    """The address of a file of 4 MiB, and the place where a download of it was stopped after 2 MiB."""
    server.files["/big.bin"] = CONTENT * 4
    url, path = f"{server.url}/big.bin", tmp_path / "big.bin"
    server.cut = [2 * MEBIBYTE + 5]
    with pytest.raises(_StoppedError):
        download(url, path, report=_stop_at(2 * MEBIBYTE), sleep=_never)
    server.sent, server.asked = 0, []
    return url, path


def test_an_interrupted_download_requests_only_the_rest(server, stopped):
    url, path = stopped
    kept = path.with_name("big.bin.part").stat().st_size
    assert not path.exists() and kept >= 2 * MEBIBYTE
    download(url, path, sleep=_never)
    assert path.read_bytes() == CONTENT * 4
    assert server.asked == [f"bytes={kept}-"] and server.sent == 4 * MEBIBYTE - kept
    assert _names(path.parent) == {"big.bin"}


@pytest.mark.parametrize(
    "changed",
    [
        {"files": {"/big.bin": CONTENT[::-1] * 2}},
        {"tag": 'W/"{}"'},
        {"shift": 7},  # it sends a different range than was asked for
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_a_part_that_may_not_fit_is_fetched_again(server, stopped, changed):
    for attribute, value in changed.items():
        setattr(server, attribute, value)
    url, path = stopped
    download(url, path, sleep=lambda seconds: None)
    assert path.read_bytes() == server.files["/big.bin"] and server.sent >= len(server.files["/big.bin"])


def test_a_part_that_was_whole_before_the_stop_is_not_requested_again(server, tmp_path):
    server.files["/a.bin"] = CONTENT
    url, path = f"{server.url}/a.bin", tmp_path / "a.bin"
    with pytest.raises(_StoppedError):
        download(url, path, report=_stop_at(MEBIBYTE), sleep=_never)
    server.asked = []
    download(url, path, sleep=_never)
    assert server.asked == [] and path.read_bytes() == CONTENT


def test_a_connection_that_ends_early_is_resumed_after_a_pause(server, tmp_path):
    server.files["/big.bin"] = CONTENT * 2
    server.cut = [1000, 500]
    pauses: list[float] = []
    download(f"{server.url}/big.bin", tmp_path / "big.bin", sleep=pauses.append)
    assert server.asked == [None, "bytes=1000-", "bytes=1500-"] and server.sent == 2 * MEBIBYTE
    assert pauses == [1.0, 1.0]
    assert (tmp_path / "big.bin").read_bytes() == CONTENT * 2


@pytest.mark.parametrize("kind", ["refuse", "busy"])
def test_a_server_that_fails_twice_is_asked_again_with_growing_pauses(server, tmp_path, kind):
    server.files["/a.bin"] = CONTENT
    setattr(server, kind, 2)
    pauses: list[float] = []
    download(f"{server.url}/a.bin", tmp_path / "a.bin", sleep=pauses.append)
    assert pauses == [1.0, 2.0]
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_a_server_that_always_fails_ends_as_retryable_and_keeps_the_part(server, tmp_path):
    server.files["/a.bin"] = CONTENT
    server.cut, server.busy = [100], 0
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        server.busy = 99

    with pytest.raises(RetryableError, match=rf"a\.bin: gave up after {ATTEMPTS} attempts .*503.*a\.bin\.part"):
        download(f"{server.url}/a.bin", tmp_path / "a.bin", sleep=pause)
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0]
    assert (tmp_path / "a.bin.part").read_bytes() == CONTENT[:100]


@pytest.mark.parametrize("kind, right", [
    ("md5", True),
    ("sha256", False),
    *(("sha256 that the hub states in its redirect", right) for right in (True, False)),
])  # fmt: skip
def test_a_published_digest_is_verified(server, tmp_path, kind, right):
    server.files["/cdn/model"] = CONTENT
    algorithm, _, redirected = kind.partition(" ")
    stated = hashlib.new(algorithm, CONTENT if right else b"other").hexdigest()
    server.redirect["/hub/model"] = (f"{server.url}/cdn/model", stated)
    url, digest = ("/hub/model", None) if redirected else ("/cdn/model", f"{algorithm}:{stated}")
    if right:
        download(f"{server.url}{url}", tmp_path / "model", digest, sleep=_never)
        assert (tmp_path / "model").read_bytes() == CONTENT
    else:
        with pytest.raises(FatalError, match=rf"model: the download is not the published file .*{stated}"):
            download(f"{server.url}{url}", tmp_path / "model", digest, sleep=_never)
        assert _names(tmp_path) == set()


def test_what_can_not_be_downloaded_is_one_message_without_retry(server, tmp_path):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        for url, said in (
            (f"{server.url}/lost.zip", r"/lost\.zip: no such file on the server \(404 .*rlip data list"),
            (mirrored("https://host.org/a", "no address"), "--mirror"),
            (
                f"http://127.0.0.1:{closed.getsockname()[1]}/a.bin",
                r"no connection to 127\.0\.0\.1:\d+ .*refused.*proxy.*RLIP_MIRROR",
            ),
        ):
            with pytest.raises(FatalError, match=said):
                download(url, tmp_path / "a", sleep=_never)
    assert not (tmp_path / "a").exists()


def test_a_disk_that_is_full_or_fills_up_meanwhile_is_reported(server, tmp_path, monkeypatch):
    server.files["/a.bin"] = CONTENT
    (tmp_path / "a.bin.part").symlink_to("/dev/full")
    with pytest.raises(FatalError, match=r"disk full while writing .*a\.bin\.part.*nothing is lost"):
        download(f"{server.url}/a.bin", tmp_path / "a.bin", sleep=_never)
    monkeypatch.setattr(download_module.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 10}))
    with pytest.raises(FatalError, match=r"disk full: .*needs .* GiB more in .*--root"):
        download(f"{server.url}/a.bin", tmp_path / "a.bin", sleep=_never)
    assert not (tmp_path / "a.bin").exists()


def test_two_downloads_of_one_file_do_not_mix(server, tmp_path):
    server.files["/a.bin"] = CONTENT
    url, path = f"{server.url}/a.bin", tmp_path / "a.bin"

    def second(done: int, total: int | None) -> None:
        with pytest.raises(FatalError, match="another process is downloading it"):
            download(url, path)

    download(url, path, report=second)
    assert path.read_bytes() == CONTENT


def test_a_mirror_has_the_host_as_its_first_folder():
    url = "https://host.org/a/b%20c.zip?x=1"
    assert mirrored(url, "http://127.0.0.1:80/m/") == "http://127.0.0.1:80/m/host.org/a/b%20c.zip?x=1"
    assert mirrored(url, None) == url


def _zip(members: dict[str, bytes]) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as packed:
        for name, data in members.items():
            packed.writestr(name, data)
    return target.getvalue()


MAKE = {"a.zip": _zip, "a.tar.gz": lambda members: gzip.compress(tar_of(members))}


@pytest.mark.parametrize("name", MAKE)
def test_an_archive_is_unpacked_beside_what_is_there(tmp_path, name):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_bytes(b"mine")
    archive = tmp_path / name
    archive.write_bytes(MAKE[name]({"notes/one.txt": b"1", "two/deep/2.txt": b"2"}))
    unpack(archive, tmp_path)
    assert _names(tmp_path) == {"notes/mine.txt", "notes/one.txt", "two/deep/2.txt"}
    assert (tmp_path / "two/deep/2.txt").read_bytes() == b"2"


@pytest.mark.parametrize("name", MAKE)
def test_an_archive_that_leads_out_or_is_damaged_is_refused_and_leaves_nothing(tmp_path, name):
    folder = tmp_path / "in" / "here"
    folder.mkdir(parents=True)
    for member in ("/evil", "a/../../evil", "a\\b"):
        (folder / name).write_bytes(MAKE[name]({"good.txt": b"1", member: b"evil"}))
        with pytest.raises(FatalError, match="would lie outside the folder, so nothing was unpacked"):
            unpack(folder / name, folder)
        assert _names(tmp_path) == {f"in/here/{name}"}
    if name == "a.zip":
        with zipfile.ZipFile(folder / name, "w") as packed:
            link = zipfile.ZipInfo("link")
            link.external_attr = 0o120777 << 16
            packed.writestr(link, "/etc/passwd")
    else:
        (folder / name).write_bytes(gzip.compress(entry("link", tarfile.SYMTYPE, link="/etc/passwd") + bytes(1024)))
    with pytest.raises(FatalError, match="is a link"):
        unpack(folder / name, folder)
    assert _names(tmp_path) == {f"in/here/{name}"}
    whole = MAKE[name]({"one.bin": os.urandom(5000), "two.bin": os.urandom(5000)})
    (folder / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FatalError, match=r"was damaged .* run again to download it"):
        unpack(folder / name, folder)
    assert _names(tmp_path) == set()


def _sparse() -> bytes:
    """A tar of one entry that claims to be a file of holes, of 2^60 bytes."""
    return gzip.compress(pax(GNU__sparse__map="0,1", GNU__sparse__size=str(2**60)) + plain("x.jpg", b"x") + bytes(1024))


def _flagged(flags: int = 0, method: int = 0) -> bytes:
    """A zip of one member that claims to be encrypted, or packed by another method."""
    packed = bytearray(_zip({"x.jpg": b"x"}))
    for header, place in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        at = packed.index(header) + place
        packed[at : at + 4] = flags.to_bytes(2, "little") + method.to_bytes(2, "little")
    return bytes(packed)


LONG_NAME, LONG_PAX = (entry(kind=kind, size=base256(2**32)) + bytes(2**23) for kind in (b"L", b"x"))
UNUSUAL = {
    "a sparse file": ("a.tar.gz", _sparse(), "is a sparse file"),
    "an encrypted member": ("a.zip", _flagged(flags=1), "is encrypted, password required"),
    "a patch": ("a.zip", _flagged(flags=32), "was damaged"),
    "LZMA": ("a.zip", _flagged(method=14), "was damaged"),
    "an unknown method": ("a.zip", _flagged(method=77), "method is not supported"),
    "a name that is no UTF-8": ("a.zip", _flagged(flags=2048).replace(b"x.jpg", b"\xff.jpg"), "was damaged"),
    "a pax header of 4 GiB": ("a.tar.gz", gzip.compress(LONG_PAX, 1), "damaged"),
    "a long name of 4 GiB": ("a.tar.gz", gzip.compress(LONG_NAME, 1), "damaged"),
    "a file that ends early": ("a.tar.gz", gzip.compress(plain("x.jpg", bytes(9999))[:2000]), "was damaged"),
    "no tar": ("a.tar.gz", gzip.compress(b"no tar" * 999), "was damaged"),
    "a header that is none": ("a.tar.gz", gzip.compress(plain("x.jpg", b"x") + b"no header" * 99), "was damaged"),
}


@pytest.mark.parametrize("case", UNUSUAL)
def test_what_no_published_archive_holds_is_refused_and_leaves_nothing(tmp_path, case):
    name, content, message = UNUSUAL[case]
    (tmp_path / name).write_bytes(content)
    tracemalloc.start()
    with pytest.raises(FatalError, match=message):
        unpack(tmp_path / name, tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert _names(tmp_path) <= {name} and peak < 2**22


def test_a_compressed_tar_becomes_one_that_is_read_in_place(tmp_path):
    archive = tmp_path / "patch3.tar.gz"
    archive.write_bytes(gzip.compress(tar_of({"patch3/a.jpg": b"picture"})))
    gunzip(archive, tmp_path / "patch3.tar")
    assert _names(tmp_path) == {"patch3.tar"}
    image = open_folder(tmp_path / "patch3.tar").place("patch3/a.jpg")
    assert read_first(image, 100) == b"picture"
    archive.write_bytes(gzip.compress(os.urandom(5000))[:3000])
    with pytest.raises(FatalError, match="was damaged"):
        gunzip(archive, tmp_path / "patch4.tar")
    assert _names(tmp_path) == {"patch3.tar"}


def _address(file: PublicFile) -> str:
    return urlsplit(mirrored(file.url, "http://mirror")).path


def _serve_tiny(server: Server) -> None:
    """Serve tiny files under the addresses of the catalogue, laid out as the official archives are."""
    for each in CATALOGUE.values():
        for file in each.files:
            folder = Path(file.path).parent
            inside = [str(Path(place).relative_to(folder)) for place in file.places]
            members = {name if Path(name).suffix else f"{name}/1.jpg": b"[]" for name in inside}
            if file.path.endswith(".zip"):
                server.files[_address(file)] = _zip(members)
            elif file.then == "gunzip":
                patch = Path(file.places[0]).stem
                server.files[_address(file)] = gzip.compress(tar_of({f"{patch}/1.jpg": b"x"}))
            elif file.path.endswith(".tar.gz"):
                server.files[_address(file)] = gzip.compress(tar_of(members))
            else:
                server.files[_address(file)] = b"{}"


@pytest.fixture
def without_digests(monkeypatch: pytest.MonkeyPatch) -> None:
    """The catalogue without the digests of the real archives."""
    for name, each in CATALOGUE.items():
        files = tuple(replace(file, digest=None) for file in each.files)
        monkeypatch.setitem(CATALOGUE, name, replace(each, files=files))


@pytest.mark.usefixtures("without_digests")
def test_the_layout_is_what_the_recipes_look_for(server, tmp_path, root):
    _serve_tiny(server)
    get_data(["coco", "visual_genome", "roberta", "objects365"], tmp_path, mirror=server.url, as_json=True)
    loaded = load_recipe(root / "recipes/coco_objects365.toml", [f"data.root={tmp_path}"])
    used = {*loaded.data.label, *loaded.data.tagger}
    for source in (each for each in loaded.resolved().data.sources if each.name in used):
        assert source.missing() == [] and source.unreadable() == []
    assert (tmp_path / "weights" / "roberta-base" / "vocab.json").is_file()
    assert loaded.train_tagger.tokenizer == Path("data/weights/roberta-base")
    assert [path for path in _names(tmp_path) if path.endswith((".zip", ".gz", ".part", ".json.part"))] == []


@pytest.mark.usefixtures("without_digests")
def test_a_set_that_is_there_is_not_downloaded_again_and_an_archive_that_was_copied_is_unpacked(
    server, tmp_path, capsys
):
    _serve_tiny(server)
    (tmp_path / "coco").mkdir()
    (tmp_path / "coco" / "val2017.zip").write_bytes(_zip({"val2017/mine.jpg": b"mine"}))
    get_data(["coco"], tmp_path, ["val"], server.url, as_json=True)
    assert server.asked == [] and _names(tmp_path) == {"coco/val2017/mine.jpg"}
    capsys.readouterr()
    get_data(["coco"], tmp_path, ["val"], server.url, as_json=True)
    assert json.loads(capsys.readouterr().out) == {"got": [], "there": [f"{tmp_path}/coco/val2017"], "by_hand": []}


@pytest.mark.usefixtures("without_digests")
def test_a_set_that_was_moved_into_place_in_part_is_not_there(tmp_path, monkeypatch):
    (tmp_path / "coco").mkdir()
    members = {f"val2017/{number}.jpg": b"mine" for number in range(3)}
    (tmp_path / "coco" / "val2017.zip").write_bytes(_zip(members))
    move, moved = os.replace, iter(range(3))

    def interrupted(source: str, target: str) -> None:
        move(source, target)
        if next(moved) == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(os, "replace", interrupted)
        get_data(["coco"], tmp_path, ["val"], None, as_json=True)
    assert len(list((tmp_path / "coco/val2017").iterdir())) == 2
    get_data(["coco"], tmp_path, ["val"], None, as_json=True)
    assert _names(tmp_path) == {f"coco/{name}" for name in members}


def test_a_copied_archive_with_a_wrong_digest_is_not_unpacked(tmp_path):
    (tmp_path / "coco").mkdir()
    (tmp_path / "coco" / "val2017.zip").write_bytes(_zip({"val2017/mine.jpg": b"mine"}))
    with pytest.raises(FatalError, match=r"val2017\.zip: its md5 is .*442b8da7639aecaf257c1dceb8ba8c80 is published"):
        get_data(["coco"], tmp_path, ["val"], None, as_json=True)
    assert _names(tmp_path) == {"coco/val2017.zip"}


def test_what_must_be_downloaded_manually_is_reported(tmp_path, capsys):
    with pytest.raises(
        FatalError, match=r"(?s)hico_det must be downloaded manually.*umich\.edu.*Google Drive.*test_hico\.json"
    ):
        get_data(["hico_det"], tmp_path, mirror=None, as_json=False)
    for place in CATALOGUE["hico_det"].hand_places:
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_text("[]")
    get_data(["hico_det"], tmp_path, mirror=None, as_json=False)


def test_unknown_sets_and_parts_are_reported_with_the_known_ones(tmp_path):
    with pytest.raises(FatalError, match="no public dataset named 'coc'; the datasets are coco, objects365"):
        get_data(["coc"], tmp_path, mirror=None, as_json=True)
    with pytest.raises(FatalError, match="--only test: no such part; coco has annotations, val, train"):
        get_data(["coco"], tmp_path, ["test"], None, as_json=True)


def test_every_file_of_the_catalogue_has_its_own_place_inside_the_root():
    files = [file for each in CATALOGUE.values() for file in each.files]
    paths = [place for file in files for place in {file.path, *file.places}]
    assert len(set(paths)) == len(paths)
    assert not [path for path in paths if Path(path).is_absolute() or ".." in Path(path).parts]
    assert all(re.fullmatch(r"md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}", file.digest) for file in files if file.digest)
    assert all(urlsplit(file.url).scheme in ("http", "https") for file in files)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("data/coco/train2017", "COCO 2017 (about 20.4 GB, https://cocodataset.org/#download) is downloaded by "
         "`rlip data get coco`"),
        ("/x y/coco/annotations/instances_val2017.json", "`rlip data get coco --root '/x y'`"),
        ("/models/roberta-base", "`rlip data get roberta`"),
        ("Salesforce/blip-image-captioning-large", "`rlip data get blip`"),
        ("data/vrd/objects.json", "(about 2.0 GB) must be downloaded manually from "
         "https://cs.stanford.edu/people/ranjaykrishna/vrd/; `rlip data get vrd` says how"),
        (Path("/x/vg150/VG-SGG.h5"), "; `rlip data get vg150` says how"),
        *((unknown, "") for unknown in ("mine", "coco", "coco/mine", "/weights/model", "")),
    ],
)  # fmt: skip
def test_where_to_get_names_page_size_and_command(asked, said):
    assert where_to_get(asked).endswith(said) and bool(where_to_get(asked)) == bool(said)


def test_the_command_downloads_from_a_mirror_and_lists_what_is_there(server, tmp_path, monkeypatch):
    _serve_tiny(server)
    monkeypatch.setenv("RLIP_MIRROR", server.url)

    def run(*words: str) -> Result:
        return rlip("data", *words, "--root", tmp_path)

    done = run("get", "roberta")
    assert done.exit_code == 0, done.stderr
    assert "3 files downloaded, 0 already existed" in done.stdout
    folder = tmp_path / "weights" / "roberta-base"
    assert {path.name for path in folder.iterdir()} == {"tokenizer.json", "vocab.json", "merges.txt"}
    listed = {each["name"]: each for each in json.loads(run("list", "--json").stdout)}
    assert listed["roberta"]["there"] and not listed["coco"]["there"] and list(listed) == list(CATALOGUE)
    shown = run("get").stdout
    assert shown == run("list").stdout and re.search(rf"roberta +2\.7 MB  present +{folder}/tokenizer\.json", shown)
    del server.files["/raw.githubusercontent.com/s-gupta/v-coco/master/data/vcoco/vcoco_test.json"]
    done = run("get", "vcoco", "--only", "test")
    assert done.exit_code == 1 and done.stderr.strip().startswith("Error: ") and "404" in done.stderr
