"""Guarantees of the store: its address, whole artifacts or none, keys that cover what decides the bytes."""

import errno
import os
from pathlib import Path
from unittest.mock import Mock
from uuid import uuid4

import pytest
from hypothesis import given, settings, strategies as st
from toy_store import put, put_chain, record

from pipeline.data.partitioning import extend_partitions
from storage.disk import Disk
from storage.errors import FatalError, RetryableError
from storage.keys import KeyTerms
from storage.local_store import LocalStore
from storage.manifest import FileEntry
from storage.open_store import existing_store, folder_name, is_remote, local_folder, open_store
from storage.remote_store import RemoteStore
from storage.runs import Run

TERMS = KeyTerms("parse", 1, {"model": "m"}, {"captions": ["c" * 64]}, {"weights": "w" * 64})


def test_a_draft_that_is_not_committed_leaves_nothing(tmp_path):
    store = LocalStore(tmp_path)
    with pytest.raises(RuntimeError), store.draft() as draft:
        (draft / "half").write_bytes(b"x")
        raise RuntimeError
    assert list((tmp_path / "pending").glob("[!.]*")) == []
    assert store.find("parse", "a" * 64) is None


def test_a_folder_without_a_manifest_is_no_artifact_and_gives_way(tmp_path):
    store = LocalStore(tmp_path / "store")
    whole = put(LocalStore(tmp_path / "other"), "parse")
    torn = store.folder("parse", whole.key)
    torn.mkdir(parents=True)
    (torn / "triplets.parquet").write_bytes(b"ro")
    assert store.find("parse", whole.key) is None
    assert put(store, "parse").file("triplets.parquet").read_bytes() == whole.file("triplets.parquet").read_bytes()


def test_a_root_that_cannot_be_made_is_refused_with_advice(tmp_path):
    (tmp_path / "file").write_text("")
    for root in (tmp_path / "file", tmp_path / "file" / "store"):
        with pytest.raises(FatalError, match=r"can't be written.*--set store=FOLDER"):
            LocalStore(root)


def test_a_read_only_copy_without_a_folder_for_pending_work_can_be_read(tmp_path):
    made = put(LocalStore(tmp_path), "parse")
    (tmp_path / "pending" / ".gate").unlink()
    (tmp_path / "pending").rmdir()
    read_only = Disk()
    read_only.mkdir = Mock(side_effect=OSError(errno.EROFS, "Read-only file system"))  # type: ignore[method-assign]
    store = LocalStore(tmp_path, read_only)
    assert store.find("parse", made.key) == made
    with pytest.raises(FatalError, match="can't be written"):
        store.require_writable()


def test_a_file_system_without_locks_is_refused_before_any_work(tmp_path, monkeypatch):
    store = LocalStore(tmp_path)
    monkeypatch.setattr("fcntl.flock", Mock(side_effect=OSError(errno.ENOSYS, "Function not implemented")))
    with pytest.raises(FatalError, match=r"can't be written \(Function not implemented\).*with locks \(flock\)"):
        store.require_writable()
    assert list((tmp_path / "pending").iterdir()) == []


def test_scratch_outlives_its_writer_and_admits_one_at_a_time(tmp_path):
    store = LocalStore(tmp_path)
    with store.scratch("k") as work:
        (work / "checkpoint").write_bytes(b"step 10")
        with pytest.raises(RetryableError, match="another process"), store.scratch("k"):
            pass
    with store.scratch("k") as work:
        assert (work / "checkpoint").read_bytes() == b"step 10"
    store.sweep()
    assert (work / "checkpoint").exists()
    store.drop_scratch("k")
    assert not work.exists()


def test_a_failure_of_the_work_is_not_taken_for_another_process(tmp_path):
    with pytest.raises(BlockingIOError, match="no more processes"), LocalStore(tmp_path).scratch("k"):
        raise BlockingIOError(errno.EAGAIN, "no more processes")


def test_no_scratch_of_a_read_only_store_counts_as_idle(tmp_path, monkeypatch):
    store = LocalStore(tmp_path)
    with store.scratch("k") as work:
        pass
    assert list(store.idle_scratch()) == [work]
    refused = Mock(side_effect=OSError(errno.EROFS, "Read-only file system"))
    monkeypatch.setattr("storage.local_store.lock_file", refused)
    assert list(store.idle_scratch()) == []


def test_sweeping_takes_the_drafts_of_the_dead_and_spares_the_living(tmp_path):
    store = LocalStore(tmp_path)
    for name in ("one", "two", "three"):
        (tmp_path / "pending" / f"draft-{name}").mkdir()
    with store.draft() as living:
        assert store.sweep() == 3
        assert list((tmp_path / "pending").glob("draft-*/")) == [living]
    assert store.sweep() == 0 and list((tmp_path / "pending").glob("[!.]*")) == []


def test_rejected_rows_are_no_part_of_the_content(tmp_path):
    plain = put(LocalStore(tmp_path), "parse").manifest
    more = {**plain.files, "rejected.parquet": FileEntry(digest="d" * 64, size=1)}
    assert plain.model_copy(update={"files": more}).content == plain.content


@pytest.mark.parametrize("other", [
    KeyTerms("tag", 1, TERMS.settings, TERMS.inputs, TERMS.weights),
    KeyTerms("parse", 2, TERMS.settings, TERMS.inputs, TERMS.weights),
    KeyTerms("parse", 1, {"model": "n"}, TERMS.inputs, TERMS.weights),
    KeyTerms("parse", 1, TERMS.settings, {"captions": ["d" * 64]}, TERMS.weights),
    KeyTerms("parse", 1, TERMS.settings, TERMS.inputs, {"weights": "x" * 64}),
])  # fmt: skip
def test_every_term_is_part_of_the_key(other):
    assert other.key != TERMS.key


@pytest.mark.parametrize("name", ["../x", "", "a/b", ".hidden", "ü", "a" * 101])
def test_run_names_cannot_leave_the_store(tmp_path, name):
    with pytest.raises(FatalError, match=f"run name {name!r}"):
        Run(LocalStore(tmp_path), name)


@settings(max_examples=30)
@given(st.lists(st.integers(0, 60), unique=True), st.lists(st.integers(0, 60), unique=True), st.integers(1, 9))
def test_new_images_append_partitions_and_move_nothing(old, new, size):
    partitions = extend_partitions([], old, size)
    grown = extend_partitions(partitions, [*old, *new], size)
    assert grown[: len(partitions)] == partitions
    assert sorted(i for part in grown for i in part) == sorted({*old, *new})
    assert all(1 <= len(part) <= size for part in grown)


@pytest.mark.parametrize("name", [".gate", f"claim-{'a' * 64}.lock", f"scratch-{'a' * 64}.lock"])
def test_a_lock_that_is_a_link_is_refused_and_a_file_is_locked_as_it_is(name, tmp_path):
    store, victim = LocalStore(tmp_path / "store"), tmp_path / "victim"
    victim.write_text("precious")
    lock = tmp_path / "store" / "pending" / name

    def use() -> None:
        with store.draft(), store.claim("a" * 64, print), store.scratch("a" * 64):
            pass

    lock.symlink_to(victim)
    with pytest.raises(FatalError, match="is a link"):
        use()
    lock.unlink()
    lock.write_text("left by someone")
    with store.draft(), store.claim("a" * 64, print), store.scratch("a" * 64):
        assert lock.read_text() == "left by someone"
    assert victim.read_text() == "precious"


def test_a_group_that_the_umask_admits_can_share_a_store(tmp_path):
    before = os.umask(0o002)
    try:
        store = LocalStore(tmp_path / "store")
        record(store, "demo", put_chain(store))
        with store.claim("a" * 64, print), store.scratch("a" * 64):
            modes = {path: path.stat().st_mode for path in store.root.rglob("*") if path.is_file()}
    finally:
        os.umask(before)
    assert {path.suffix for path in modes} >= {".lock", ".json"}
    assert [path for path, mode in modes.items() if mode & 0o060 != 0o060] == []


@pytest.mark.parametrize("address, folder", [
    ("out/store", "out/store"), ("/out/größe", "/out/größe"), (Path("/out"), "/out"),
    ("file:///out/store", "/out/store"), ("local:///out/store/", "/out/store"), ("~/store", Path.home() / "store"),
])  # fmt: skip
def test_a_folder_is_where_its_address_says(address, folder):
    assert local_folder(address) == Path(folder) and not is_remote(address)


def test_copies_of_what_is_elsewhere_lie_in_the_cache_of_the_user(tmp_path, monkeypatch):
    for name in ("RLIP_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    url = "memory://bucket/simplecache://x"
    assert is_remote(url) and is_remote("simplecache::file://x")
    assert local_folder(url) == tmp_path / ".cache" / "rlip" / folder_name(url)
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert local_folder(url) == Path("/caches/rlip") / folder_name(url)
    monkeypatch.setenv("RLIP_CACHE", "/mine")
    assert local_folder(url) == local_folder(f"{url}/") == Path("/mine") / folder_name(url)
    monkeypatch.setenv("RLIP_CACHE", "~/mine")  # as files of settings have it, which no shell reads
    assert local_folder(url) == tmp_path / "mine" / folder_name(url)
    assert local_folder("memory://other") != local_folder("memory://another")


@pytest.mark.parametrize("address", ["", "a\0b", "memory://\udfff"])
def test_what_can_be_no_address_is_reported(address):
    said = f"{address!r} is not the address of a store" if address else "no store given"
    with pytest.raises(FatalError) as caught:
        open_store(address)
    assert str(caught.value) == f"{said}; name a folder, or a URL such as s3://bucket/folder"


@pytest.mark.parametrize("remote", [False, True])
def test_a_store_exists_once_something_is_in_it(remote, tmp_path, monkeypatch):
    monkeypatch.setenv("RLIP_CACHE", str(tmp_path / "cache"))
    address = f"memory://{uuid4().hex}" if remote else str(tmp_path / "store")
    for existing in (address, Path(address)) if not remote else (address,):
        with pytest.raises(FatalError) as caught:
            existing_store(existing)
        assert str(caught.value) == f"no store at {address}; name it with --store, or create one with rlip run"
    with pytest.raises(FatalError, match=r"no store at .*none; name it with --store, or create one with rlip run"):
        existing_store(f"file://{tmp_path}/none")
    assert not (tmp_path / "none").exists()
    store = open_store(address)
    assert type(store) is (RemoteStore if remote else LocalStore)
    put(store, "caption")
    assert existing_store(address).stages() == ["caption"]


def test_a_store_elsewhere_exists_even_if_it_has_no_more_than_a_run(tmp_path, monkeypatch):
    monkeypatch.setenv("RLIP_CACHE", str(tmp_path / "cache"))
    store = open_store(f"memory://{uuid4().hex}")
    record(store, "demo", {"parse": []})
    assert existing_store(store.address).stages() == []
