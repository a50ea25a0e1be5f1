"""Where artifacts lie and when they were last used, in a folder and at a URL: both stores give the same answers."""

import errno
import json
import os
import re
import threading
import time
from pathlib import Path
from unittest.mock import Mock
from uuid import uuid4

import fsspec
import pytest
from faulty_disk import NoSync
from faulty_files import Dead, FaultyFiles
from fsspec.implementations.memory import MemoryFileSystem
from toy_chain import run_chain
from toy_store import put, put_chain

from storage.atomic import atomic_folder
from storage.digests import digest_bytes
from storage.disk import Disk
from storage.errors import FatalError, RetryableError
from storage.garbage import find_garbage
from storage.local_store import LocalStore
from storage.manifest import FileEntry, parse_manifest
from storage.object_store_artifacts import ObjectStoreArtifacts
from storage.open_store import folder_name
from storage.remote_store import RemoteStore
from storage.runs import Run, StepKeys, parse_document
from storage.store import Store, locate


@pytest.fixture(params=["folder", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """An empty store of each kind."""
    if request.param == "folder":
        return LocalStore(tmp_path / "store")
    return RemoteStore(f"memory://{uuid4().hex}", tmp_path / "store", FaultyFiles(), ())


def test_an_artifact_is_located_by_its_key_alone(store):
    chain = put_chain(store)
    for stage, (artifact,) in chain.items():
        found = locate(store, artifact.key)
        assert found is not None and (found.manifest.stage, found.key) == (stage, artifact.key)
    assert locate(store, "0" * 64) is None


def test_bytes_lie_where_a_location_says(store):
    artifact = put(store, "caption")
    (found,) = store.find_all("caption", [artifact.key]).values()
    with fsspec.open(found.location("captions.parquet")) as file:
        assert file.read() == artifact.file("captions.parquet").read_bytes()
    if isinstance(store, RemoteStore):
        assert found.location("captions.parquet").startswith(
            f"{store.address}/artifacts/caption/{artifact.key}/captions."
        )
        for ask in (found.location, found.file):
            with pytest.raises(
                FileNotFoundError, match=f"{store.address}: caption {artifact.key[:12]} has no other.bin"
            ):
                ask("other.bin")


def test_rejected_rows_are_read_and_none_where_none_were(store):
    run_chain(store)
    (first,), (second,) = (list(store.artifacts(stage)) for stage in ("first", "second"))
    assert first.rejected().to_pylist() == [{"image_id": 9, "stage": "first", "reason": "unloved", "value": ""}]
    assert second.rejected().num_rows == 0 and second.rejected().column_names == first.rejected().column_names


def test_a_run_that_finds_an_artifact_renews_its_time(store):
    began = time.time() - 2
    artifact, gone = put(store, "caption"), put(store, "parse")
    assert began < store.used("caption", artifact.key) < time.time() + 2
    store.discard("parse", gone.key)
    if isinstance(store, LocalStore):
        os.utime(artifact.folder / "manifest.json", (1, 1))
        assert store.used("caption", artifact.key) == 1
    else:
        assert store.used("parse", gone.key) == 0
    before = time.time() + 0.05
    (lost,) = [garbage for garbage in find_garbage(store, before) if garbage.what == "caption"]
    time.sleep(0.1)
    store.touch("caption", [artifact, gone])
    lost.remove(store, before)
    assert [found.key for found in store.artifacts("caption")] == [artifact.key], "it was found after it was listed"
    lost.remove(store, time.time() + 60)
    assert list(store.artifacts("caption")) == []


@pytest.fixture
def remote(tmp_path: Path) -> RemoteStore:
    return RemoteStore(f"memory://{uuid4().hex}", tmp_path / "store", FaultyFiles(), ())


def test_cached_manifests_of_one_time_are_not_mixed_up(remote):
    class SameTime(FaultyFiles):
        def find(self, path: str, **settings: object) -> object:
            return {place: {**info, "created": 5.0} for place, info in super().find(path, **settings).items()}

    made = [put(remote, "caption", settings={"n": n}, rows=[n]) for n in range(3)]
    keys = [artifact.key for artifact in made]
    store = RemoteStore(remote.address, remote.root.with_name("other"), SameTime(), ())
    for _ in range(2):
        assert {key: found.content for key, found in store.find_all("caption", keys).items()} == {
            artifact.key: artifact.content for artifact in made
        }


def test_an_artifact_that_is_there_costs_one_request(remote):
    artifact = put(remote, "caption")
    counted = FaultyFiles()
    store = RemoteStore(remote.address, remote.root, counted, ())
    for look in (store.find, store.recover):
        counted.asked.clear()
        found = look("caption", artifact.key)
        assert found is not None and found.content == artifact.content and counted.asked == ["cat_file"]


def test_what_can_not_be_copied_from_elsewhere_is_named_with_what_to_do(tmp_path):
    remote = ObjectStoreArtifacts(f"memory://{uuid4().hex}", FaultyFiles(), ())
    artifact = put(LocalStore(tmp_path / "made"), "caption")
    place = f"{remote.url}: artifacts/caption/{artifact.key}"
    (tmp_path / "draft").mkdir()

    def said() -> str:
        with pytest.raises(FatalError) as caught:
            remote.download("caption", artifact.key, tmp_path / "draft")
        return str(caught.value)

    assert said() == f"{place} no longer exists; run the recipe again"
    remote.put(artifact)
    (data,) = [name for name in remote.listing("caption")[artifact.key] if name != "manifest.json"]
    remote.files.write(f"artifacts/caption/{artifact.key}/{data}", b"other")
    remedy = f"remove it with `rlip store verify --repair --store {remote.url}`, then run or push again"
    assert said() == f"{place}/captions.parquet is damaged; {remedy}"
    remote.files.write(f"artifacts/caption/{artifact.key}/manifest.json", b"{}")
    assert said().startswith(f"{place}/manifest.json: damaged manifest (")


def test_a_data_file_elsewhere_is_named_by_its_digest(tmp_path):
    remote, local = ObjectStoreArtifacts(f"memory://{uuid4().hex}", FaultyFiles(), ()), LocalStore(tmp_path)
    names = ("README", "a.b.bin")
    files = {name: FileEntry(digest=digest_bytes(name.encode()), size=len(name)) for name in names}
    made = put(local, "caption").manifest.model_copy(update={"files": files, "stage": "toy", "seal": ""})
    with local.draft() as draft:
        for name in names:
            (draft / name).write_bytes(name.encode())
        remote.put(local.commit(draft, made))
    digests = [files[name].digest[:16] for name in names]
    assert set(remote.listing("toy")[made.key]) == {"manifest.json", f"README.{digests[0]}", f"a.b.{digests[1]}.bin"}


def test_whoever_loses_to_a_removal_or_to_a_damaged_manifest_is_reported(tmp_path):
    class Lost(FaultyFiles):
        def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **settings: object) -> None:
            if mode == "create":
                raise FileExistsError(path)
            super().pipe_file(path, value, mode, **settings)

    remote = ObjectStoreArtifacts(f"memory://{uuid4().hex}", Lost(), ())
    artifact = put(LocalStore(tmp_path), "caption")
    place = f"artifacts/caption/{artifact.key}"
    with pytest.raises(FatalError) as caught:
        remote.put(artifact)
    assert str(caught.value) == f"{remote.url}: {place} is being removed while it is written; run again"
    remote.files.write(f"{place}/manifest.json", b"{}")
    with pytest.raises(FatalError, match=f"^{remote.url}: {place}/manifest.json: damaged manifest "):
        remote.put(artifact)


def test_runs_elsewhere_are_named_when_one_is_unknown():
    remote = ObjectStoreArtifacts(f"memory://{uuid4().hex}", FaultyFiles(), ())
    with pytest.raises(FatalError, match=rf"^no run 'toy' at {remote.url}; runs there: none$"):
        remote.run_records("toy")
    for name in ("b", "a"):
        remote.files.write(f"runs/{name}/recipe.json", b"{}")
    with pytest.raises(FatalError, match=rf"^no run 'toy' at {remote.url}; runs there: a, b$"):
        remote.run_records("toy")
    assert remote.run_records("a") == {"recipe.json": b"{}"}


def test_a_store_elsewhere_tries_as_often_as_it_is_told(remote, tmp_path):
    artifact = put(remote, "caption")
    with pytest.raises(RetryableError):
        RemoteStore(remote.address, tmp_path, FaultyFiles(1, "conflict"), ()).find("caption", artifact.key)
    tried = RemoteStore(remote.address, tmp_path, FaultyFiles(1, "conflict"), (0.0,)).find("caption", artifact.key)
    assert tried is not None


def test_a_store_elsewhere_works_on_the_disk_that_it_was_given(tmp_path):
    disk = NoSync()
    put(RemoteStore(f"memory://{uuid4().hex}", tmp_path, FaultyFiles(), (), disk=disk), "caption")
    assert sorted(path.name for path in disk.files) == ["captions.parquet", "manifest.json"]


def test_an_artifact_that_is_committed_again_stays_and_a_failing_disk_is_reported(tmp_path):
    failing = Disk()
    failing.rename = Mock(side_effect=OSError(errno.EIO, "no"))
    first = put(LocalStore(tmp_path), "caption")
    inode = first.folder.stat().st_ino
    assert put(LocalStore(tmp_path), "caption").folder == first.folder and first.folder.stat().st_ino == inode
    with pytest.raises(RetryableError, match=f"writing {first.folder}"):
        put(LocalStore(tmp_path, failing), "caption")
    assert first.folder.stat().st_ino == inode
    with pytest.raises(NotADirectoryError):
        Disk().sync_folder(first.file("captions.parquet"))


def test_a_manifest_is_written_as_people_read_it_and_as_it_was_read(tmp_path):
    data = put(LocalStore(tmp_path), "caption").manifest_bytes()
    assert data.startswith(b'{\n "format": 2,\n "stage": "caption",\n "key": "')
    values = json.loads(data)
    first = {name: value for name, value in {**values, "format": 1}.items() if name != "seal"}
    for written in (data, json.dumps(first, indent=1).encode()):
        assert parse_manifest(written, "here").as_bytes() == written


def test_documents_and_steps_lie_where_other_programs_find_them(tmp_path):
    run = Run(LocalStore(tmp_path), "demo")
    run.note("recipe", {"name": "demo", "folder": tmp_path})
    run.record("shard:pseudo", "shard", {})
    written = json.loads((tmp_path / "runs/demo/recipe.json").read_bytes())
    assert (written["name"], written["folder"]) == ("demo", str(tmp_path))
    assert json.loads((tmp_path / "runs/demo/steps/shard.pseudo.json").read_bytes())["step"] == "shard:pseudo"


def test_both_places_are_tried_before_any_work(remote, tmp_path):
    refusing = FaultyFiles()
    refusing.pipe_file = Mock(side_effect=PermissionError("no"))
    remote.require_writable()
    assert remote.remote.files.listing("") == {} and not [path for path in remote.root.rglob("*") if path.is_file()]
    with pytest.raises(FatalError, match="not allowed"):
        RemoteStore(remote.address, tmp_path / "refused", refusing, ()).require_writable()
    silent = RemoteStore(remote.address, tmp_path / "silent", FaultyFiles(1, "conflict", times=9), ())
    with pytest.raises(RetryableError):
        silent.require_writable()
    left = [RemoteStore(remote.address, tmp_path / name, FaultyFiles(2), ()) for name in ("a", "b")]
    for store in left:
        with pytest.raises(Dead):
            store.require_writable()
    assert [entry.size for entry in remote.remote.files.listing("claims").values()] == [0, 0], "each has its own"
    (remote.root / "pending").rmdir()
    (remote.root / "pending").write_bytes(b"")
    with pytest.raises(FatalError, match="can't be written"):
        remote.require_writable()


def test_done_work_leaves_no_scratch_here_even_if_the_other_side_fails(remote, tmp_path):
    silent = RemoteStore(remote.address, tmp_path / "silent", FaultyFiles(1, "conflict", times=10**6), ())
    for store in (remote, silent):
        with store.scratch("key") as folder:
            (folder / "checkpoint").write_bytes(b"1")
        assert (folder / "checkpoint").is_file()
        remote.remote.files.write("scratch/key/record.json", b"{}")
        store.drop_scratch("key")
        assert not folder.exists() and not list(store.root.rglob("*scratch*"))
    assert list(remote.remote.files.listing("scratch")) == ["key/record.json"], "it is left by the one that failed"


def test_cleaning_up_takes_old_notes_and_copies_of_what_is_gone_and_nothing_else(remote):
    kept, gone = put(remote, "caption"), put(remote, "caption", settings={"n": 1})
    remote.find_all("caption", [kept.key])
    other = RemoteStore(remote.address, remote.root.with_name("other"), FaultyFiles(), ())
    (copy,) = [found.file("captions.parquet") for found in other.artifacts("caption") if found.key == kept.key]
    remote.remote.remove("caption", gone.key, remote.remote.listing("caption")[gone.key])
    remote.draft().__enter__()
    notes = [f"{kind}/{name}" for kind in ("found", "claims", "scratch") for name in ("a.json", "b/c.json")]
    for note in notes:
        remote.remote.files.write(note, b"[]")
    remote.clean_up(before=time.time() - 60)
    assert all(remote.remote.files.read(note) == b"[]" for note in notes)
    assert gone.folder.exists(), "a run may be copying it to the URL now"
    for store in (remote, other):
        store.clean_up(before=time.time() + 60)
    assert not any(remote.remote.files.listing(kind) for kind in ("found", "claims", "scratch"))
    assert kept.folder.is_dir() and not gone.folder.exists() and not copy.exists()
    assert not (remote.root / "manifests").exists() and not (other.root / "files").exists()
    assert [found.key for found in remote.artifacts("caption")] == [kept.key]


def test_of_an_artifact_that_is_removed_the_manifest_goes_first(tmp_path):
    url = f"memory://{uuid4().hex}"
    artifact = put(RemoteStore(url, tmp_path / "one", FaultyFiles(), ()), "caption")
    counted = FaultyFiles()
    store = RemoteStore(url, tmp_path / "other", counted, ())
    store.remote.files.listing(f"artifacts/caption/{artifact.key}")
    at = len(counted.asked) + 3  # the listing, the manifest, and then the data
    with pytest.raises(Dead):
        RemoteStore(url, tmp_path / "other", FaultyFiles(at - len(counted.asked), "stop"), ()).discard(
            "caption", artifact.key
        )
    left = store.remote.files.listing(f"artifacts/caption/{artifact.key}")
    assert len(left) == 1 and "manifest.json" not in left and store.find("caption", artifact.key) is None
    with pytest.raises(FileNotFoundError, match=rf"{url}: artifacts/caption/{artifact.key}/manifest\.json"):
        store.manifest_bytes("caption", artifact.key)


def test_a_note_of_what_a_run_found_names_the_keys(remote, tmp_path):
    found = [put(remote, "caption"), put(remote, "caption", settings={"n": 1})]
    remote.touch("caption", [])
    assert remote.remote.files.listing("found") == {}
    remote.touch("caption", found)
    ((name, note),) = remote.remote.files.read_many(
        f"found/{path}" for path in remote.remote.files.listing("found")
    ).items()
    assert name.startswith("found/caption-") and json.loads(note) == [artifact.key for artifact in found]
    refused = RemoteStore(remote.address, tmp_path / "store", FaultyFiles(1, "conflict", times=9), ())
    refused.touch("caption", found)


def test_the_entries_of_a_store_are_listed_in_order_with_sizes_and_times(tmp_path):
    store = LocalStore(tmp_path)
    keys = sorted(put_chain(store, partition)["caption"][0].key for partition in ("toys/0000", "toys/0001"))
    (tmp_path / "artifacts" / "Not a stage").mkdir()
    torn = store.folder("caption", "f" * 64)
    torn.mkdir()
    (torn / "part").write_bytes(b"12345")
    os.utime(torn, (7, 7))
    os.utime(torn / "part", (9, 9))
    assert (store.address, store.stages()) == (str(tmp_path), ["caption", "ingest", "parse"])
    assert [artifact.key for artifact in store.artifacts("caption")] == keys
    *whole, last = store.entries("caption")
    assert [(entry.key, entry.whole) for entry in whole] == [(key, True) for key in keys]
    assert (last.key, last.whole, last.size) == (torn.name, False, 5)
    assert last.used == 9, "of a folder without a manifest, when anything in it last changed"


def test_a_claim_waits_for_its_holder_alone_and_leaves_nothing(tmp_path):
    store, waited, waited_again = LocalStore(tmp_path), threading.Event(), threading.Event()
    order: list[str] = []

    def third() -> None:
        with LocalStore(tmp_path).claim("a" * 64, lambda host: waited_again.set()):
            order.append("third")

    def second() -> None:
        with LocalStore(tmp_path).claim("a" * 64, lambda host: waited.set()):
            last.start()
            waited_again.wait(20)
            order.append("second")

    other, last = threading.Thread(target=second), threading.Thread(target=third)
    with store.claim("a" * 64, order.append), store.claim("b" * 64, order.append):
        other.start()
        assert waited.wait(20) and store.sweep() == 0
        assert len(list((tmp_path / "pending").glob("claim-*.lock"))) == 2, "a claim that is held is not swept"
        order.append("first")
    other.join()
    last.join()
    assert order == ["first", "second", "third"]
    (tmp_path / "pending" / f"claim-{'c' * 64}.lock").touch()
    LocalStore(tmp_path).sweep()
    assert list((tmp_path / "pending").glob("[!.]*")) == []


def test_a_folder_appears_whole_replaces_another_or_gives_way(tmp_path):
    place = tmp_path / "deep" / "place"
    for replace, text, left in ((False, "one", "one"), (False, "two", "one"), (True, "three", "three")):
        with atomic_folder(place, replace=replace) as aside:
            (aside / "file").write_text(text)
            assert aside.parent == place.parent and aside.name.startswith(".place.")
        assert (place / "file").read_text() == left and list(place.parent.iterdir()) == [place]
    with pytest.raises(KeyError), atomic_folder(place, replace=True) as aside:
        raise KeyError
    assert (place / "file").read_text() == "three" and list(place.parent.iterdir()) == [place]
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"), atomic_folder(tmp_path / "file", replace=False):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "file"]


def test_what_was_used_at_the_very_time_is_spared(tmp_path):
    store = LocalStore(tmp_path)
    artifact = put(store, "caption")
    with store.scratch("e" * 64) as scratch:
        pass
    for path in (artifact.folder / "manifest.json", scratch):
        os.utime(path, (1000, 1000))
    assert list(find_garbage(store, 1000.0)) == []
    for garbage in find_garbage(store, 1001.0):
        garbage.remove(store, 1000.0)
        assert store.find("caption", artifact.key) is not None and scratch.is_dir()


def test_of_several_notes_the_newest_counts_and_a_damaged_one_protects_nothing(remote):
    artifact = put(remote, "caption")
    note = json.dumps([artifact.key]).encode()
    for name in ("z", "a"):
        remote.remote.files.write(f"found/{name}.json", note)
        time.sleep(0.01)
    newest = remote.remote.files.listing("found")["a.json"].modified
    remote.remote.files.write("found/m.json", b"[" * 100_000)
    remote.remote.files.write("found/n.json", b'{"not": "keys"}')
    assert remote.used("caption", artifact.key) == newest


def test_each_note_of_a_touch_is_read_once(remote, monkeypatch):
    artifact, asked, files = put(remote, "caption"), list[str](), remote.remote.files
    read_many = files.read_many
    monkeypatch.setattr(files, "read_many", lambda paths: read_many(asked.extend(found := [*paths]) or found))
    remote.touch("caption", [artifact])
    first = remote.used("caption", artifact.key)
    time.sleep(0.01)
    remote.touch("caption", [artifact])
    assert remote.used("caption", artifact.key) > first and next(remote.entries("caption")).used > first
    assert len(asked) == len(set(asked)) == 2


@pytest.mark.parametrize("value", [{"a": 1}, [], "text", {"value": 1, "other": 2}])
def test_documents_are_read_as_they_were_noted_also_those_without_a_seal(value, tmp_path):
    run = Run(LocalStore(tmp_path), "demo")
    run.note("outcome", value)
    assert parse_document((run.folder / "outcome.json").read_bytes(), "x", "") == value
    assert parse_document(json.dumps(value).encode(), "x", "") == value
    with pytest.raises(FatalError, match=r"^x: damaged \(.*\); do that$"):
        parse_document(b"{", "x", "do that")


def test_copies_of_each_url_have_a_readable_folder_of_their_own():
    one, other = folder_name("s3://bucket/a.b"), folder_name("s3://bucket/a-b")
    assert re.fullmatch(r"s3---bucket-a-b-[0-9a-f]{8}", one) and re.fullmatch(r"s3---bucket-a-b-[0-9a-f]{8}", other)
    assert one != other and folder_name("s3://bucket/a.b") == one and len(folder_name("s3://" + "x" * 500)) == 69


def test_names_of_steps_and_partitions_have_two_hundred_characters_at_most():
    StepKeys(stage="ingest", partitions={"p" * 200: "0" * 64}).require_valid("s" * 200)
    for step, partition in (("s" * 201, "p"), ("s", "p" * 201)):
        with pytest.raises(FatalError, match="not the name of a"):
            StepKeys(stage="ingest", partitions={partition: "0" * 64}).require_valid(step)


def test_a_folder_whose_first_file_appears_while_it_is_listed_is_empty_until_then(remote, monkeypatch):
    def found(files: MemoryFileSystem, path: str, detail: bool) -> dict[str, dict[str, object]]:
        return {path: {"name": path, "type": "directory", "size": 0}}

    monkeypatch.setattr(MemoryFileSystem, "find", found)
    assert remote.remote.files.listing("runs") == {}
