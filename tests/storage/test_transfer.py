"""Runs copied between stores: whole artifacts or none, only what is missing, checked by digest; also on S3."""

import os
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import pytest
from faulty_files import Dead, FaultyFiles
from fsspec.implementations.memory import MemoryFileSystem
from toy_store import put_chain, record

from pipeline.cli.transfer import Copied, pull_run, push_run
from storage.errors import FatalError, RetryableError
from storage.local_store import LocalStore
from storage.object_store_artifacts import ObjectStoreArtifacts
from storage.runs import Run


@pytest.fixture
def url() -> str:
    """An empty location."""
    return f"memory://{uuid4().hex}"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    store = LocalStore(tmp_path / "here")
    run = record(store, "demo", put_chain(store, "toys/0000"), put_chain(store, "toys/0001"))
    run.note("recipe", {"name": "demo"})
    return run


def _there(tmp_path: Path) -> Run:
    return Run(LocalStore(tmp_path / "there"), "demo")


def _contents(run: Run) -> dict[str, dict[str, str]]:
    return {step: {p: a.content for p, a in run.artifacts(step).items()} for step in run.steps()}


@pytest.mark.parametrize("kind", ["memory", "file", "s3"])
def test_a_run_comes_back_as_it_was_and_nothing_is_copied_twice(run, kind, url, tmp_path, request):
    if kind != "memory":
        url = f"file://{tmp_path}/remote" if kind == "file" else f"{request.getfixturevalue('s3')}/{uuid4().hex}"
    assert push_run(run, ObjectStoreArtifacts(url)) == Copied(6, 6)
    assert push_run(run, ObjectStoreArtifacts(url)) == Copied(6, 0)
    there = _there(tmp_path)
    assert pull_run(there, ObjectStoreArtifacts(url)) == Copied(6, 6)
    assert pull_run(there, ObjectStoreArtifacts(url)) == Copied(6, 0)
    assert _contents(there) == _contents(run)
    assert there.read_document("recipe") == {"name": "demo"}


def test_bytes_that_changed_on_the_way_are_refused(run, url, tmp_path):
    push_run(run, ObjectStoreArtifacts(url))
    files, root = fsspec.core.url_to_fs(url)
    (first, *_) = [path for path in files.find(root) if "/captions." in path]
    files.pipe_file(first, b"other")
    with pytest.raises(FatalError, match=r"captions\.parquet is damaged"):
        pull_run(_there(tmp_path), ObjectStoreArtifacts(url))
    assert not _there(tmp_path).exists


def test_a_manifest_is_put_on_condition_that_there_is_none(run, s3):
    remote = ObjectStoreArtifacts(f"{s3}/{uuid4().hex}")
    push_run(run, remote)
    files, root = fsspec.core.url_to_fs(remote.url)
    (manifest, *_) = [path for path in files.find(root) if path.endswith("manifest.json")]
    with pytest.raises(FileExistsError):
        files.pipe_file(manifest, b"{}", mode="create")
    for artifact in run.artifacts("parse").values():
        remote.put(artifact)  # a second writer of the same key is not an error


@pytest.mark.parametrize("fault", ["stop", "answer lost"])
def test_a_push_that_stops_anywhere_leaves_whole_artifacts_and_goes_on(run, fault, tmp_path):
    def copy(remote: ObjectStoreArtifacts, store: LocalStore) -> None:
        for stage in ("ingest", "caption", "parse"):
            for key in remote.keys(stage):
                remote.get(stage, key, store)

    counted = FaultyFiles()
    push_run(run, ObjectStoreArtifacts(f"memory://{uuid4().hex}", counted))
    writes = [at for at, name in enumerate(counted.asked, start=1) if name in ("put_file", "pipe_file", "create")]
    assert len(writes) > 12
    for at in writes:
        url = f"memory://{uuid4().hex}"
        with pytest.raises(Dead if fault == "stop" else RetryableError):
            push_run(run, ObjectStoreArtifacts(url, FaultyFiles(at, fault), pauses=()))
        remote, store = ObjectStoreArtifacts(url), LocalStore(tmp_path / str(at))
        copy(remote, store)
        assert push_run(run, remote).copied <= 6
        copy(remote, store)
        pulled = Run(store, "demo")
        pull_run(pulled, remote)
        assert _contents(pulled) == _contents(run)


def test_what_is_not_there_or_not_reached_is_told(run):
    with pytest.raises(FatalError, match="nosuch://x"):
        ObjectStoreArtifacts("nosuch://x")
    for none in ("", "s3://"):
        with pytest.raises(FatalError, match="is not a complete address; name a folder, or a bucket"):
            ObjectStoreArtifacts(none)
    artifact = next(iter(run.artifacts("parse").values()))
    (artifact.folder / "manifest.json").unlink()
    with pytest.raises(FatalError, match="which the store has lost"):
        push_run(run, ObjectStoreArtifacts(f"memory://{uuid4().hex}"))


def test_missing_credentials_are_told(run, s3, monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("AWS_") and "KEY" in name]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    files = fsspec.filesystem("s3", skip_instance_cache=True)
    with pytest.raises(FatalError, match="AWS_ACCESS_KEY_ID"):
        ObjectStoreArtifacts(f"{s3}/x", files).put(next(iter(run.artifacts("parse").values())))


def test_a_full_disk_here_is_not_blamed_on_the_other_side(run, tmp_path):
    url = f"memory://{uuid4().hex}"
    push_run(run, ObjectStoreArtifacts(url))

    class FullHere(MemoryFileSystem):
        cachable = False

        def get_file(self, rpath: str, lpath: str, **settings: Any) -> None:
            raise OSError(28, "No space left on device", lpath)

    pulled = _there(tmp_path)
    with pytest.raises(FatalError, match=rf"disk full while copying memory://.* to {tmp_path}/there/.*free space"):
        pull_run(pulled, ObjectStoreArtifacts(url, FullHere()))
