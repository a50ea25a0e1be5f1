"""Runs copied between stores: whole artifacts or none, only what is missing, and nothing that was tampered with."""

import json
import re
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import pyarrow as pa
import pytest
from faulty_disk import NoSync
from faulty_files import Dead, FaultyFiles
from toy_store import put_chain, record

from pipeline.cli.store import Copied, pull_run, push_run
from storage.digests import digest_bytes
from storage.errors import FatalError, RetryableError
from storage.json_files import sealed_json
from storage.local_store import LocalStore
from storage.manifest import FileEntry, parse_manifest
from storage.object_store_artifacts import ObjectStoreArtifacts
from storage.runs import Run
from storage.tables import CAPTIONS, table_bytes


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


def test_a_push_that_stops_anywhere_leaves_whole_artifacts_and_goes_on(run, tmp_path):
    def copy(remote: ObjectStoreArtifacts, store: LocalStore) -> None:
        for stage in ("ingest", "caption", "parse"):
            for key in remote.keys(stage):
                remote.get(stage, key, store)

    counted = FaultyFiles()
    push_run(run, ObjectStoreArtifacts(f"memory://{uuid4().hex}", counted))
    writes = [at for at, name in enumerate(counted.asked, start=1) if name in ("put_file", "pipe_file", "create")]
    assert len(writes) > 12
    for at, fault in zip(writes, cycle(("stop", "answer lost"))):
        url = f"memory://{uuid4().hex}"
        with pytest.raises(Dead if fault == "stop" else RetryableError):
            push_run(run, ObjectStoreArtifacts(url, FaultyFiles(at, fault), pauses=()))
        remote, store = ObjectStoreArtifacts(url), LocalStore(tmp_path / str(at), NoSync())
        copy(remote, store)
        assert push_run(run, remote).copied <= 6
        copy(remote, store)
        pulled = Run(store, "demo")
        pull_run(pulled, remote)
        assert _contents(pulled) == _contents(run)


def test_a_push_that_stops_claims_no_state_before_it_is_there(run, url, tmp_path, monkeypatch):
    run.append("done")
    push_run(run, remote := ObjectStoreArtifacts(url))
    record(run.store, "demo", put_chain(run.store, "toys/0002")).append("done")
    write = remote.files.write

    def stops(path: str, data: bytes) -> None:
        if "/steps/" in path:
            raise Dead
        write(path, data)

    monkeypatch.setattr(remote.files, "write", stops)
    with pytest.raises(Dead):
        push_run(run, remote)
    pull_run(there := _there(tmp_path), remote)
    assert _contents(there) == _contents(run.records()[0]) and len(there.records()) == 1


def test_what_a_killed_push_leaves_in_a_folder_is_no_other_state(run, tmp_path):
    run.append("done")
    push_run(run, remote := ObjectStoreArtifacts(f"file://{tmp_path}/remote"))
    (record_file,) = (tmp_path / "remote/runs/demo/records").iterdir()
    record_file.with_name(f"{record_file.name}.0123abcd.new").touch()
    assert push_run(run, remote) == Copied(6, 0)


def test_what_a_run_makes_while_it_is_pushed_is_not_published_without_its_artifacts(run, url, tmp_path):
    before, newer = _contents(run), put_chain(run.store, "toys/0002")
    push_run(run, ObjectStoreArtifacts(url), lambda done, total: record(run.store, "demo", newer) and None)
    pull_run(there := _there(tmp_path), ObjectStoreArtifacts(url))
    assert _contents(there) == before != _contents(run)


@pytest.mark.parametrize("pulls", [False, True])
def test_a_partition_map_is_only_replaced_by_one_that_begins_alike(run, pulls, url, tmp_path):
    remote, there = ObjectStoreArtifacts(url), _there(tmp_path)
    pull_run(there, remote) if push_run(run, remote) and pulls else None
    name = f"cuts/toys-{0:012}.json"

    def copied(*partitions: list[int]) -> list[list[int]]:
        """The destination's map after a copy of these partitions."""
        map_ = sealed_json({"partitions": partitions})
        if pulls:
            remote.files.write(name, map_)
            pull_run(there, remote)
            return json.loads((there.store.root / name).read_bytes())["partitions"]
        run.store.put(run.store.root / name, map_)
        push_run(run, remote)
        return json.loads(remote.files.read(name))["partitions"]

    assert copied([1, 2]) == [[1, 2]]
    assert copied([1, 2], [3]) == [[1, 2], [3]]
    assert copied([1, 2]) == [[1, 2], [3]], "an earlier version"
    with pytest.warns(UserWarning, match=f"partition a dataset differently.*{name}"):
        assert copied([1, 2], [4], [5]) == [[1, 2], [3]]


def test_a_damaged_partition_map_stops_a_push_before_any_artifact(run, url):
    run.store.put(run.store.root / f"cuts/toys-{0:012}.json", b"{")
    with pytest.raises(FatalError, match=r"cuts/toys-0+\.json: damaged"):
        push_run(run, remote := ObjectStoreArtifacts(url))
    assert remote.keys("ingest") == set()


def test_an_artifact_that_the_store_has_lost_is_not_pushed(run, url):
    artifact = next(iter(run.artifacts("parse").values()))
    (artifact.folder / "manifest.json").unlink()
    with pytest.raises(FatalError, match="which the store has lost"):
        push_run(run, ObjectStoreArtifacts(url))


FILE = "captions.parquet"


class Elsewhere:
    """A pushed run, and how an attacker changes it. Data files are renamed with their digests, as a writer would."""

    def __init__(self, folder: Path) -> None:
        run = record(LocalStore(folder / "source"), "demo", put_chain(LocalStore(folder / "source")))
        run.note("recipe", {"name": "demo"})
        run.append("completed")
        self.url = f"memory://{uuid4().hex}"
        push_run(run, ObjectStoreArtifacts(self.url))
        self.files, self.root = fsspec.core.url_to_fs(self.url)
        (self.caption,) = run.keys("caption").values()
        self.place = f"{self.root}/artifacts/caption/{self.caption}"
        self.manifest = parse_manifest(self.files.cat_file(f"{self.place}/manifest.json"), "m")

    def write(self, path: str, data: bytes) -> None:
        self.files.pipe_file(f"{self.root}/{path}", data)

    def edit(self, sealed: bool = True, **values: Any) -> None:
        """Change fields of the manifest of the captions, whatever their types, and seal it again if `sealed`."""
        changed = json.loads(self.manifest.model_dump_json()) | values
        seal = {}
        if sealed:
            rest = {name: value for name, value in changed.items() if name != "seal"}
            seal = {"seal": digest_bytes(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode())}
        self.files.pipe_file(f"{self.place}/manifest.json", json.dumps(changed | seal).encode())

    def poison(self, data: bytes, rows: int = 2, **changed: Any) -> None:
        """Put another table in place of the captions, with its own digest and size in the manifest."""
        entry = FileEntry(digest=digest_bytes(data), size=len(data), rows=rows).model_dump() | changed
        self.files.pipe_file(f"{self.place}/captions.{entry['digest'][:16]}.parquet", data)
        self.edit(files={FILE: entry})

    def step(self, **changed: Any) -> None:
        entry = {"step": "caption", "stage": "caption", "partitions": {"toys/0000": self.caption}}
        self.write("runs/demo/steps/caption.json", sealed_json(entry | changed))

    def history(self, steps: dict[str, Any]) -> None:
        self.write("runs/demo/records/20000101.json", sealed_json({"status": "completed", "steps": steps}))


def _rows(ids: list[int]) -> bytes:
    columns = {field.name: pa.nulls(len(ids), field.type) for field in CAPTIONS} | {
        "image_id": pa.array(ids, pa.int64())
    }
    return table_bytes(pa.table(columns, schema=CAPTIONS))


ATTACKS: dict[str, tuple[Callable[[Elsewhere], None], str]] = {
    "step that climbs": (lambda e: e.step(step="../../escaped\x1b[2J"), r"escaped.*': not the name of a step"),
    "partition that climbs": (
        lambda e: e.step(partitions={"../x": e.caption}), r"'\.\./x': not the name of a partition"
    ),
    "key that climbs": (lambda e: e.step(partitions={"toys/0000": "../../../etc"}), r"not a stage and a key"),
    "step with another seal": (
        lambda e: e.write(
            "runs/demo/steps/caption.json", sealed_json({"step": "caption"}).replace(b"caption", b"captiom")
        ),
        r"steps/caption\.json: damaged \(changed since it was written\)",
    ),
    "number of 5,000 digits": (
        lambda e: e.write("runs/demo/recipe.json", b"9" * 5000), r"recipe\.json: damaged .*number"
    ),
    "record with a step that climbs": (
        lambda e: e.history({"../../x": {"stage": "caption", "partitions": {}}}),
        r"'\.\./\.\./x': not the name of a step",
    ),
    "record without steps": (lambda e: e.write("runs/demo/records/2.json", b"{}"), r"records/2\.json: damaged .*steps"),
    "file that climbs": (lambda e: e.edit(files={"../../evil": {"digest": "0" * 64, "size": 1}}), r"damaged manifest"),
    "file that is the manifest": (
        lambda e: e.edit(files={"manifest.json": {"digest": "0" * 64, "size": 1}}), r"not the name of a data file"
    ),
    "edited manifest": (
        lambda e: e.edit(sealed=False, host="other"), r"damaged manifest \(changed since it was written\)"
    ),
    "terms of another key": (lambda e: e.edit(terms={"stage": "caption"}), r"refused \(manifest of a different key\)"),
    "key of another artifact": (lambda e: e.edit(key="0" * 64), r"refused \(manifest of a different key\)"),
    "stage of another artifact": (lambda e: e.edit(stage="parse"), r"refused \(manifest of a different key\)"),
    "seconds that are NaN": (lambda e: e.edit(seconds=float("nan")), r"damaged manifest \(seconds"),
    "digest that climbs": (
        lambda e: e.edit(files={FILE: {"digest": "../" * 20, "size": 1}}), r"damaged manifest \(files: captions"
    ),
    "false size": (lambda e: e.poison(_rows([1, 2]), size=7), r"captions\.parquet is damaged"),
    "size below zero": (
        lambda e: e.poison(_rows([1, 2]), size=-1), r"damaged manifest \(files: captions\.parquet: size"
    ),
    "more rows than said": (lambda e: e.poison(_rows([1, 2, 3])), r"has 3 rows, and its manifest says 2"),
    "other columns": (
        lambda e: e.poison(table_bytes(pa.table({"image_id": [1, 2], "sql": ["x", "y"]}))), r"column captions\.\w+"
    ),
    "no table": (lambda e: e.poison(b"PAR1 no table PAR1"), r"captions\.parquet is not a table"),
}  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_was_tampered_with_is_refused_by_name_and_leaves_nothing(attack, tmp_path):
    elsewhere = Elsewhere(tmp_path)
    change, message = ATTACKS[attack]
    change(elsewhere)
    here = Run(LocalStore(tmp_path / "deep" / "here"), "demo")
    before = _names(tmp_path)
    with pytest.raises(FatalError, match=message) as refused:
        pull_run(here, ObjectStoreArtifacts(elsewhere.url))
    assert not re.search(r"[\x00-\x1f]", str(refused.value)), "a message controls no terminal"
    left = _names(tmp_path) - before
    assert not here.exists and not (here.store.root / "runs").exists()
    assert not any(elsewhere.caption in name or "escaped" in name or "evil" in name for name in left)
    assert {name.split("/")[0] for name in left} <= {"deep"}


def _names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def test_a_run_that_nobody_touched_is_pulled(tmp_path):
    elsewhere = Elsewhere(tmp_path)
    elsewhere.poison(_rows([1, 2]))  # an attacker who rewrites all digests writes what a stage could have written
    here = Run(LocalStore(tmp_path / "here"), "demo")
    assert pull_run(here, ObjectStoreArtifacts(elsewhere.url)).copied == 3
    assert here.exists and here.records()[0].facts["status"] == "completed"
