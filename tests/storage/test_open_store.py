"""A store is opened by its address: a folder, the URL of one, or the URL of another machine."""

from pathlib import Path
from uuid import uuid4

import pytest
from toy_store import put, record

from storage.errors import FatalError
from storage.local_store import LocalStore
from storage.open_store import existing_store, folder_name, is_remote, local_folder, open_store
from storage.remote_store import RemoteStore


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
    assert local_folder("memory://other") != local_folder("memory://another")


@pytest.mark.parametrize("address", ["", "a\0b", "memory://\udfff"])
def test_what_can_be_no_address_is_told(address):
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
    store = open_store(address)
    assert type(store) is (RemoteStore if remote else LocalStore)
    put(store, "caption")
    assert existing_store(address).stages() == ["caption"]


def test_a_store_elsewhere_exists_even_if_it_has_no_more_than_a_run(tmp_path, monkeypatch):
    monkeypatch.setenv("RLIP_CACHE", str(tmp_path / "cache"))
    store = open_store(f"memory://{uuid4().hex}")
    record(store, "demo", {"parse": []})
    assert existing_store(store.address).stages() == []
