"""Runs copied between stores: whole artifacts or none, only what is missing, checked by digest; also on S3."""

from pathlib import Path
from uuid import uuid4

import pytest
from faulty_files import Dead, FaultyFiles
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


def test_an_artifact_that_the_store_has_lost_is_not_pushed(run, url):
    artifact = next(iter(run.artifacts("parse").values()))
    (artifact.folder / "manifest.json").unlink()
    with pytest.raises(FatalError, match="which the store has lost"):
        push_run(run, ObjectStoreArtifacts(url))
