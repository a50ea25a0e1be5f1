"""Files at a URL: what is read, listed, written and refused, in memory and in a folder."""

import errno
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import Mock
from uuid import uuid4

import aiohttp
import pytest
from botocore.exceptions import EndpointConnectionError, HTTPClientError, NoCredentialsError, ParamValidationError
from faulty_files import FaultyFiles
from fsspec.implementations.memory import MemoryFileSystem

from storage.digests import digest_bytes
from storage.errors import FatalError, RetryableError
from storage.remote import Remote, translate_remote_errors


@pytest.fixture(params=["memory", "file"])
def remote(request: pytest.FixtureRequest, tmp_path: Path) -> Remote:
    return Remote(f"file://{tmp_path}/there/" if request.param == "file" else f"memory://{uuid4().hex}/")


class Ranges(MemoryFileSystem):
    """Files whose ranges are answered as told: `S3` rejects one that holds no byte, `ignored` sends the whole file."""

    cachable = False

    def __init__(self, answer: str) -> None:
        super().__init__()
        self.answer = answer

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **settings: Any) -> bytes:
        whole: bytes = super().cat_file(path)
        if self.answer == "ignored":
            return whole
        if self.answer == "fails":
            raise OSError(errno.EIO, "no answer")
        if (start, end) != (None, None) and not whole[start:end]:
            raise OSError(errno.EINVAL, "The requested range is not satisfiable")
        return whole[start:end]


def test_a_file_is_read_whole_and_in_parts_replaced_copied_and_removed(remote, tmp_path):
    remote.write("a/b.bin", b"1")
    remote.write("a/b.bin", b"0123456789")
    assert list(remote.listing("")) == ["a/b.bin"], "nothing is left beside it"
    assert remote.read("a/b.bin") == b"0123456789"
    assert remote.read("a/b.bin", 4) == remote.read_range("a/b.bin", 0, 4) == b"0123"
    assert remote.read_range("a/b.bin", 2, 3) == b"234"
    assert remote.read_range("a/b.bin", 8, 10) == b"89"
    assert remote.read_range("a/b.bin", 3, 0) == b""
    data = bytes(range(256)) * 2**13 + b"end"
    (tmp_path / "here").write_bytes(data)
    remote.upload(tmp_path / "here", "new/large")
    assert remote.digest("new/large") == (len(data), digest_bytes(data))
    remote.download("new/large", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == data
    remote.remove(["new/large", "new/large"])
    assert remote.read("new/large") is None


def test_a_missing_file_is_reported(remote, tmp_path):
    assert remote.read("none") is None and remote.digest("none") is None
    assert remote.read_many(["none"]) == {} and remote.listing("none") == {} and remote.folders("none") == []
    remote.remove(["none"])
    with pytest.raises(FileNotFoundError):
        remote.read_range("none", 0, 1)
    with pytest.raises(FileNotFoundError):
        remote.download("none", tmp_path / "here")


def test_ranges_are_read_from_a_server_that_rejects_empty_ones():
    remote = Remote(f"memory://{uuid4().hex}", Ranges("S3"), ())
    remote.write("empty", b"")
    remote.write("full", b"0123")
    assert remote.read("empty", 3) == b"" and remote.read("full", 3) == b"012"
    assert remote.read_range("full", 4, 2) == b"" and remote.read_range("full", 3, 2) == b"3"


def test_a_server_that_ignores_ranges_or_fails_is_not_taken_for_one_without_the_bytes():
    remote = Remote(f"memory://{uuid4().hex}", Ranges("ignored"), ())
    remote.write("full", b"0123")
    assert remote.read_range("full", 0, 4) == b"0123"
    with pytest.raises(FatalError, match=f"{remote.url}: the server ignores range requests; copy the tars"):
        remote.read_range("full", 0, 3)
    failing = Remote(remote.url, Ranges("fails"), ())
    for read in (lambda: failing.read("full", 3), lambda: failing.read_range("full", 0, 3)):
        with pytest.raises(RetryableError, match="no answer"):
            read()


def test_a_silent_endpoint_is_named_with_the_variable_that_set_it(monkeypatch):
    def said(url: str) -> str:
        with pytest.raises(RetryableError) as caught, translate_remote_errors(url):
            raise TimeoutError("timed out")
        return str(caught.value)

    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    assert said("s3://b/x") == "s3://b/x can't be reached (TimeoutError: timed out)"
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://me:word@one:9")
    hint = "; the endpoint is http://***@one:9, set by AWS_ENDPOINT_URL"
    assert said("s3://b/x") == f"s3://b/x can't be reached (TimeoutError: timed out{hint})"
    assert said("memory://x") == "memory://x can't be reached (TimeoutError: timed out)"
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://two:9")
    hint = "; the endpoint is http://two:9, set by AWS_ENDPOINT_URL_S3"
    assert said("s3://b/x") == f"s3://b/x can't be reached (TimeoutError: timed out{hint})"


def test_pauses_differ_so_that_many_workers_do_not_come_back_at_once(monkeypatch):
    pauses: list[float] = []
    monkeypatch.setattr("storage.remote.time.sleep", pauses.append)
    for _ in range(50):
        with pytest.raises(RetryableError):
            Remote(f"memory://{uuid4().hex}", FaultyFiles(1, "conflict", times=99), (2.0, 4.0)).read("a")
    shares = [pause / wanted for pause, wanted in zip(pauses, (2.0, 4.0) * 50, strict=True)]
    assert 0.5 <= min(shares) < 0.7 and 1.3 < max(shares) <= 1.5


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (
            NoCredentialsError(), FatalError,
            "s3://b/x: Unable to locate credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
        ),
        (ImportError("Install s3fs"), FatalError, "s3://b/x: Install s3fs; for S3: pip install 'rlip[s3]'"),
        (aiohttp.ServerDisconnectedError("gone"), RetryableError,
         "s3://b/x can't be reached (ServerDisconnectedError: gone)"),
        (HTTPClientError(error="cut"), RetryableError,
         "s3://b/x can't be reached (HTTPClientError: An HTTP Client raised an unhandled exception: cut)"),
        (aiohttp.InvalidURL("odd"), FatalError, "s3://b/x: odd; name a folder, s3://bucket/folder or another address"),
        (ParamValidationError(report="odd"), FatalError,
         "s3://b/x: ParamValidationError: Parameter validation failed:\nodd"),
        (OSError(errno.EREMOTEIO, "We encountered an internal error."), RetryableError, "internal error"),
        (OSError(errno.EIO, "ConditionalRequestConflict"), RetryableError, "ConditionalRequestConflict"),
        (TimeoutError("timed out"), RetryableError, "timed out"),
        (EndpointConnectionError(endpoint_url="u"), RetryableError, "Could not connect"),
        (ConnectionResetError(104, "Connection reset by peer"), RetryableError, "reset"),
        (PermissionError("Access Denied"), FatalError, "check the credentials"),
        (OSError(errno.EROFS, "Read-only file system"), FatalError, "not allowed"),
        (OSError(errno.EINVAL, "The authorization header is malformed"), FatalError, "refused"),
        (OSError(errno.ENOSPC, "No space left on device"), FatalError, "free space"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)  # fmt: skip
def test_errors_of_each_library_are_reported_in_full(error, kind, said):
    with pytest.raises(kind) as caught, translate_remote_errors("s3://b/x"):
        raise error
    assert type(caught.value) is kind and "s3://b/x" in str(caught.value)
    assert str(caught.value) == said if said.startswith("s3://b/x") else said in str(caught.value)


def test_errors_of_our_own_code_pass():
    for error in (KeyError("x"), FileNotFoundError("x"), FileExistsError("x"), FatalError("x")):
        with pytest.raises(type(error)) as caught, translate_remote_errors("s3://b/x"):
            raise error
        assert caught.value is error


def test_a_bucket_must_exist_and_a_put_says_whether_it_may_replace():
    class LikeS3(FaultyFiles):
        asked_s3: ClassVar[list[object]] = []

        def call_s3(self, *asked: object, **settings: object) -> None:
            self.asked_s3.append((*asked, settings))
            raise FileNotFoundError

        def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **settings: object) -> None:
            self.asked_s3.append((path, mode))

    remote = Remote("s3://nosuch/folder/deep", LikeS3(), ())
    with pytest.raises(FatalError) as caught:
        remote.check()
    assert str(caught.value) == (
        "s3://nosuch/folder/deep: there is no bucket 'nosuch'; create it (aws s3 mb s3://nosuch) or name another"
    )
    remote.write("a", b"")
    assert remote.create("a", b"")
    assert LikeS3.asked_s3 == [
        ("head_bucket", {"Bucket": "nosuch"}), ("nosuch/folder/deep/a", "overwrite"),
        ("nosuch/folder/deep/a", "create"),
    ]  # fmt: skip
    Remote("memory://x", LikeS3(), ()).check()


def test_only_we_try_again_and_not_the_client():
    for scheme in ("s3", "s3a"):
        remote = Remote(f"{scheme}://bucket/folder//")
        files = remote._files
        assert (remote.url, files.retries) == (f"{scheme}://bucket/folder", 1)
        told = files.config_kwargs
        assert (told["retries"]["total_max_attempts"], told["connect_timeout"], told["read_timeout"]) == (1, 5, 60)
        assert Remote(f"{scheme}://bucket/folder")._files is not files, "credentials are those of now"
    assert not hasattr(Remote("memory://x")._files, "retries")


@pytest.mark.parametrize("kind", ["memory", "file", "s3"])
def test_of_two_writers_one_wins(kind, request, tmp_path):
    place = {"memory": "memory:/", "file": f"file://{tmp_path}"}.get(kind) or request.getfixturevalue("s3")
    remote = Remote(f"{place}/{uuid4().hex}")
    assert remote.create("a", b"1") and remote.create("a", b"1") and not remote.create("a", b"2")
    assert remote.read("a") == b"1"


def test_a_listing_tells_paths_sizes_and_times(remote):
    before = datetime.now(UTC).timestamp()
    for path, data in (("a/b", b"1"), ("a/c/d", b"22"), ("e", b"")):
        remote.write(path, data)
    found = remote.listing("a")
    assert {path: entry.size for path, entry in found.items()} == {"b": 1, "c/d": 2}
    assert all(before - 1 <= entry.modified <= before + 60 for entry in found.values())
    assert remote.folders("") == ["a"] and remote.folders("a") == ["c"]


@pytest.mark.parametrize("told, token, modified", [
    ({"ETag": '"1"', "LastModified": datetime(2020, 1, 1, tzinfo=UTC)}, '"1"', 1577836800.0),
    ({"LastModified": datetime(2020, 1, 1, tzinfo=UTC), "mtime": 3}, "1577836800.0", 1577836800.0),
    ({"mtime": 3, "created": 7}, "3.0", 3.0),
    ({"created": 7}, "7.0", 7.0),
    ({}, "0.0", 0.0),
])  # fmt: skip
def test_a_time_and_a_token_are_taken_from_what_each_kind_of_store_tells(told, token, modified):
    url, files = f"memory://{uuid4().hex}", FaultyFiles()
    files.find = lambda path, **_: {
        f"{path}/a": {"type": "file", "size": 5, **told},
        path: {"type": "directory", "size": 0},
    }
    (entry,) = Remote(url, files).listing("x").values()
    assert (entry.size, entry.token, entry.modified) == (5, token, modified)


def test_folders_are_named_whether_or_not_a_server_ends_their_names_with_a_slash():
    files, found = FaultyFiles(), {"b/": "directory", "a": "directory", "c": "file"}
    files.ls = lambda path, **_: [{"name": f"{path}/{name}", "type": kind} for name, kind in found.items()]
    assert Remote(f"memory://{uuid4().hex}", files).folders("x") == ["a", "b"]


def test_listings_are_asked_for_anew():
    class Cached(FaultyFiles):
        known: Any = None

        def find(self, path: str, **settings: Any) -> Any:
            self.known = self.known or super().find(path, **settings)
            return self.known

        def ls(self, path: str, **settings: Any) -> Any:
            self.known = self.known or super().ls(path, **settings)
            return self.known

        def invalidate_cache(self, path: str | None = None) -> None:
            self.known = None

    remote = Remote(f"memory://{uuid4().hex}", Cached())
    for ask in (remote.listing, remote.folders):
        for name in ("a", "b"):
            remote.write(f"top/{ask.__name__}{name}/x", b"")
            assert any(f"{ask.__name__}{name}" in path for path in ask("top"))


def test_many_files_are_read_in_few_requests_and_a_failure_is_not_a_missing_file():
    class Several(FaultyFiles):
        most, fails = 0, False

        def cat(self, path: Any, **settings: Any) -> Any:
            self.most = max(self.most, len(path))
            return super().cat(path, **settings)

        def cat_file(self, path: str, *given: Any, **settings: Any) -> bytes:
            if self.fails:
                raise PermissionError("no")
            return super().cat_file(path, *given, **settings)

    files = Several()
    remote = Remote(f"memory://{uuid4().hex}", files, ())
    wanted = {f"a/{n}": b"%d" % n for n in range(700)}
    for path, data in wanted.items():
        remote.write(path, data)
    assert remote.read_many([*wanted, "a/none"]) == wanted
    assert files.most == 512
    files.fails = True
    with pytest.raises(FatalError, match="not allowed"):
        remote.read_many(wanted)


def test_a_full_disk_of_this_machine_is_not_the_other_sides_fault(tmp_path):
    files = FaultyFiles()
    remote = Remote(f"memory://{uuid4().hex}", files, ())
    for number, kind, said in (
        (errno.ENOSPC, FatalError, f"copying {remote.url}/a/b to {tmp_path}/here: .*free space"),
        (errno.EIO, RetryableError, f"^{remote.url} can't be reached .*what happened"),
    ):
        files.get_file = Mock(side_effect=OSError(number, "what happened"))
        with pytest.raises(kind, match=said):
            remote.download("a/b", tmp_path / "here")


def test_an_address_keeps_all_but_slashes_at_its_end_and_an_invalid_one_is_reported():
    assert Remote("memory://folder/boX//").url == "memory://folder/boX"
    for url in ("", "/", "memory://"):
        said = "; name a folder, or a bucket and a folder in it, e.g. s3://bucket/folder$"
        with pytest.raises(FatalError, match=f"^'{url}' is not a complete address{said}"):
            Remote(url)
    with pytest.raises(FatalError, match=r"^github://x: .*missing 2 required positional arguments"):
        Remote("github://x")
    with pytest.raises(FatalError, match=r"^nosuch://x: .*name a folder"):
        Remote("nosuch://x")
