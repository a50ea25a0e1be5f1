"""A store on an object store: wherever a run stops or fails, there are only whole artifacts, and the next run, on the
same machine or another, ends like an undisturbed one."""

import json
import os
import platform
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar
from uuid import uuid4

import fsspec
import pytest
from faulty_disk import NoSync
from faulty_files import Dead, FaultyFiles
from toy_chain import Counting, First, assert_valid_prefix, bytes_of, carry, first_item, run_chain
from toy_store import put, put_chain, record

from pipeline.cli.store import collect_garbage, remove_run, show_usage, verify
from pipeline.runtime.execute import WorkItem, execute
from pipeline.runtime.settings import Settings
from storage.artifact import Artifact
from storage.damage import find_damage
from storage.digests import digest_bytes, digest_file
from storage.errors import FatalError, RetryableError
from storage.keys import KeyTerms
from storage.lease import Patience
from storage.local_store import LocalStore
from storage.manifest import Manifest
from storage.open_store import existing_store, open_store
from storage.remote import retry
from storage.remote_store import RemoteStore
from storage.resume_point import ResumePoint
from storage.runs import Run, runs_of
from storage.store import Store

QUICK = Patience(heartbeat=0.05, look=0.01, expiry=0.5)


def _store(url: str, folder: Path, files: FaultyFiles | None = None, patience: Patience = QUICK) -> RemoteStore:
    """The store as a machine sees it; `folder` is on that machine."""
    return RemoteStore(url, folder, files or FaultyFiles(), (0.0, 0.0), patience, NoSync())


def _url() -> str:
    return f"memory://{uuid4().hex}"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The bytes that an undisturbed run leaves in a local store."""
    store = LocalStore(tmp_path_factory.mktemp("undisturbed"))
    run_chain(store)
    return bytes_of(store)


@pytest.fixture(scope="module")
def operations(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The operations that an undisturbed run requests from the remote side."""
    files = FaultyFiles()
    run_chain(_store(_url(), tmp_path_factory.mktemp("counted"), files))
    return files.asked


@pytest.mark.parametrize("fault", ["stop", "conflict"])
def test_a_fault_at_any_operation_leaves_a_valid_prefix_and_the_next_run_ends_the_same(
    fault, operations, whole, tmp_path
):
    assert {"put_file", "create", "pipe_file", "cat_file", "rm_file"} <= set(operations)
    for at in range(1, len(operations) + 1):
        url, machine = _url(), tmp_path / str(at)
        # Every third machine does not come back: another one, without copies, resumes.
        next_machine = tmp_path / f"{at}-other" if at % 3 == 0 else machine
        with suppress(Dead, RetryableError):
            run_chain(_store(url, machine, FaultyFiles(at, fault, times=50)))
        assert_valid_prefix(_store(url, tmp_path / f"{at}-reader"), whole)
        run_chain(_store(url, next_machine))
        assert bytes_of(_store(url, next_machine)) == whole, f"after {fault} at {at} ({operations[at - 1]})"


def test_what_passes_by_itself_is_tried_again_and_nobody_notices(operations, whole, tmp_path):
    for at in range(1, len(operations) + 1):
        url = _url()
        run_chain(_store(url, tmp_path / str(at), FaultyFiles(at, "answer lost", times=2)))
        assert bytes_of(_store(url, tmp_path / str(at))) == whole, (
            f"after an answer was lost at {at} ({operations[at - 1]})"
        )


def test_only_what_may_pass_is_tried_again():
    for kind, tries in ((RetryableError, 3), (FatalError, 1)):
        asked: list[int] = []

        def fail(asked: list[int] = asked, kind: type[Exception] = kind) -> None:
            asked.append(1)
            raise kind("no")

        with pytest.raises(kind):
            retry(fail, (0.0, 0.0))
        assert len(asked) == tries


def test_what_a_dead_process_did_not_finish_copying_is_copied_not_computed_again(tmp_path):
    url = _url()
    runs: list[str] = []

    class Counted(First):
        def run(self, *given: Any) -> Any:
            runs.append("run")
            return super().run(*given)

    files, calm = FaultyFiles(), Patience(heartbeat=60)  # else heartbeats are among the operations
    carry(Counted, first_item(), _store(_url(), tmp_path / "count", files, calm))
    at = files.asked.index("put_file") + 2
    with pytest.raises(Dead):
        carry(Counted, first_item(), _store(url, tmp_path / "one", FaultyFiles(at), calm))
    assert _store(url, tmp_path / "other").find("first", first_item().key) is None
    carry(Counted, first_item(), _store(url, tmp_path / "one"))
    assert len(runs) == 2
    (artifact,) = _store(url, tmp_path / "other").artifacts("first")
    assert artifact.file("beside.bin").read_bytes() == b"beside" * 100


def test_copies_that_a_disk_spoilt_are_not_sent(whole, tmp_path):
    url = _url()
    store = _store(url, tmp_path / "one")
    run_chain(store)
    for artifact in list(LocalStore(tmp_path / "one").artifacts("first")):
        artifact.file("beside.bin").write_bytes(b"spoilt")
        store.remote.remove("first", artifact.key, ["manifest.json"])
    run_chain(store)
    assert bytes_of(_store(url, tmp_path / "other")) == whole


def test_two_machines_whose_bytes_differ_end_with_one_whole_artifact(tmp_path):
    """For example, two training runs of one key: floats differ by machine."""
    url = _url()
    stores = [_store(url, tmp_path / name) for name in ("one", "other")]
    made = [put(LocalStore(tmp_path / f"made{n}"), "pretrain", settings={}, rows=[n]) for n in range(2)]
    assert made[0].key == made[1].key and made[0].content != made[1].content
    stands = [_commit(store, artifact) for store, artifact in zip(stores, made, strict=True)]
    assert stands[0].content == stands[1].content == made[0].content
    for store in (*stores, _store(url, tmp_path / "third")):
        found = store.find("pretrain", made[0].key)
        assert found is not None and digest_file(found.file("pretrain.parquet")) == digest_file(
            made[0].file("pretrain.parquet")
        )
        (brought,) = store.fetch_artifacts([store.folder("pretrain", made[0].key)])
        assert brought.content == made[0].content
    assert len(stores[0].remote.listing("pretrain")[made[0].key]) == 2, "the loser's data are removed"


def _commit(store: Store, artifact: Artifact) -> Artifact:
    manifest: Manifest = artifact.manifest
    with store.draft() as draft:
        for name in manifest.files:
            (draft / name).write_bytes(artifact.file(name).read_bytes())
        return store.commit(draft, manifest)


def test_machines_share_the_work(tmp_path):
    url, began = _url(), threading.Event()
    runs: list[str] = []

    class Slow(First):
        def run(self, *given: Any) -> Any:
            runs.append("run")
            began.set()
            time.sleep(1.0)
            return super().run(*given)

    notes: list[str] = []

    def work(machine: str, stage: type[First]) -> None:
        store = _store(url, tmp_path / machine)
        execute(stage(Settings()), first_item(), store, lambda done, total, note="": notes.append(note))

    first = threading.Thread(target=work, args=("one", Slow))
    first.start()
    assert began.wait(20)
    work("other", Slow)
    first.join()
    assert runs == ["run"] and notes == [f"another run on {platform.node()} is computing it"], (
        "a holder that shows signs of life is waited for"
    )


def test_a_dead_process_of_the_same_machine_is_not_waited_for(tmp_path):
    store, key = _store(_url(), tmp_path), "a" * 64
    with store.claim(key, print):
        note = store.remote.files.read(f"claims/{key}")
    store.remote.files.create(f"claims/{key}", note)
    with store.claim(key, lambda host: pytest.fail(f"it waits for {host}")):
        pass
    assert store.remote.files.listing("claims") == {}


class Dying(Counting):
    """Dies at a number, if set."""

    at: ClassVar[int] = 0
    seen: ClassVar[list[int]] = []

    def counted(self, number: int) -> None:
        self.seen.append(number)
        if number == self.at:
            raise RuntimeError("died")


def test_what_was_half_done_goes_on_on_another_machine(tmp_path):
    url, item = _url(), WorkItem("count", "all", KeyTerms("counting", 1, {}, {}))
    Dying.seen.clear()
    Dying.at = 3
    with pytest.raises(RuntimeError):
        carry(Dying, item, _store(url, tmp_path / "one"))
    copies = _store(url, tmp_path / "one").remote.files
    assert len(copies.listing("scratch")) == 2
    Dying.at = 0
    carry(Dying, item, _store(url, tmp_path / "other"))
    assert Dying.seen == [1, 2, 3, 4, 5]
    (artifact,) = _store(url, tmp_path / "third").artifacts("counting")
    assert artifact.table("doubles")["image_id"].to_pylist() == [5] and copies.listing("scratch") == {}


@pytest.mark.parametrize("name", ["a/../../escaped", "{outside}/escaped", ""])
def test_copies_of_half_done_work_under_a_name_that_leads_out_are_left(name, tmp_path):
    name = name.format(outside=tmp_path)
    files, folder = _store(_url(), tmp_path / "one").remote.files, tmp_path / "work"
    folder.mkdir()
    digest = digest_bytes(b"1")
    files.write(f"scratch/key/{digest[:16]}-{name.replace('/', '-')}", b"1")
    files.write("scratch/key/record.json", json.dumps({name: digest}).encode())
    ResumePoint(files, "key", folder, "resume.json").fetch()
    assert list(folder.iterdir()) == [] and list(tmp_path.rglob("escaped")) == []


def test_planning_asks_once_a_stage(tmp_path):
    url = _url()
    made = [put(LocalStore(tmp_path / "made"), "parse", f"toys/{n:04d}", {"n": n}) for n in range(50)]
    for artifact in made:
        _commit(_store(url, tmp_path / "one"), artifact)
    files = FaultyFiles()
    found = _store(url, tmp_path / "one", files).find_all("parse", [artifact.key for artifact in made])
    assert len(found) == 50 and files.asked == ["find", *["cat_file"] * 50]
    again = FaultyFiles()
    found = _store(url, tmp_path / "one", again).find_all("parse", [artifact.key for artifact in made])
    assert {key: artifact.content for key, artifact in found.items()} == {a.key: a.content for a in made}
    assert again.asked == ["find"], "manifests that were read are cached"


def test_a_place_that_was_written_anew_is_read_anew(tmp_path):
    url, key = _url(), ""
    one, other = _store(url, tmp_path / "one"), _store(url, tmp_path / "other")
    for rows, writer, reader in (([1], one, other), ([2], other, one)):
        artifact = put(LocalStore(tmp_path / f"made{rows}"), "pretrain", settings={}, rows=rows)
        key = artifact.key
        writer.discard("pretrain", key)
        _commit(writer, artifact)
        for store in (reader, writer):
            (found,) = store.find_all("pretrain", [key]).values()
            assert found.content == artifact.content
            assert found.table("pretrain")["image_id"].to_pylist() == rows
            (brought,) = store.fetch_artifacts([store.folder("pretrain", key)])
            assert brought.content == artifact.content


@pytest.mark.parametrize("version", [1, 2])
def test_manifests_travel_as_they_were_written_those_of_older_versions_too(version, tmp_path):
    url, made = _url(), put(LocalStore(tmp_path / "made"), "parse", "toys/0000", rows=[1])
    if version == 1:
        values = json.loads(made.manifest_bytes()) | {"format": 1}
        del values["seal"]
        (made.folder / "manifest.json").write_text(json.dumps(values, indent=1))
    one = _store(url, tmp_path / "one")
    one.remote.put(Artifact(made.folder))
    (brought,) = one.fetch_artifacts([one.folder("parse", made.key)])
    assert json.loads(brought.manifest_bytes()) == json.loads(Artifact(made.folder).manifest_bytes())
    assert [d for d in find_damage(one) if d is not None] == []


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty location. This machine's copies are in the test's folder."""
    monkeypatch.setenv("RLIP_CACHE", str(tmp_path / "cache"))
    return _url()


@pytest.mark.parametrize("where", ["memory", "s3"])
def test_care_of_a_store_elsewhere(where, url, request, capsys):
    url = f"{request.getfixturevalue('s3')}/{uuid4().hex}" if where == "s3" else url
    store = open_store(url)
    kept, lost = put_chain(store), put_chain(store, top_p=0.5, rows=[7])
    record(store, "demo", kept)
    store.remote.files.write("artifacts/caption/.DS_Store", b"no artifact")
    verify(None, repair=False, store=url, as_json=True)
    assert json.loads(capsys.readouterr().out) == {"examined": 5, "damaged": [], "files": [], "removed": 0}
    show_usage(url, as_json=True)
    (runs,) = json.loads(capsys.readouterr().out)["runs"]
    assert (runs["name"], runs["artifacts"]) == ("demo", 3)
    store.touch("caption", lost["caption"])
    for delete in (False, True):
        collect_garbage(store=url, grace=0, delete=delete, as_json=True)
        report = json.loads(capsys.readouterr().out)
        assert (
            sorted(each["what"] for each in report["garbage"]) == ["caption", "parse"] and report["deleted"] is delete
        )
    assert [artifact.key for artifact in store.artifacts("caption")] == [kept["caption"][0].key]
    files, root = fsspec.core.url_to_fs(url)
    (data,) = [path for path in files.find(f"{root}/artifacts/caption") if path.endswith(".parquet")]
    files.pipe_file(data, b"other")
    with pytest.raises(FatalError, match="--repair"):
        verify("demo", repair=False, store=url, as_json=True)
    assert "bytes instead of" in json.loads(capsys.readouterr().out)["damaged"][0]["what"]
    verify("demo", repair=True, store=url, as_json=True)
    assert json.loads(capsys.readouterr().out)["removed"] == 1
    assert list(store.artifacts("caption")) == [] and len(list(store.artifacts("parse"))) == 1
    remove_run("demo", store=url, as_json=True)
    assert json.loads(capsys.readouterr().out)["removed"] == "demo"
    assert runs_of(existing_store(url)) == []


def test_runs_and_partition_maps_are_those_that_others_wrote(url, tmp_path, monkeypatch):
    one = open_store(url)
    record(one, "demo", put_chain(one))
    one.put(one.root / "cuts" / "toys.json", b'{"partitions": [[1, 2]]}')
    monkeypatch.setenv("RLIP_CACHE", str(tmp_path / "other"))
    other = existing_store(url)
    assert other.root != one.root
    assert (other.root / "cuts" / "toys.json").read_bytes() == b'{"partitions": [[1, 2]]}'
    (run,) = runs_of(other)
    assert len(run.artifacts("parse")) == 1
    Run(one, "demo").remove()
    other.refresh()
    assert runs_of(other) == []


def test_a_place_that_can_not_work_is_reported(s3, monkeypatch, tmp_path):
    monkeypatch.setenv("RLIP_CACHE", str(tmp_path / "cache"))
    with pytest.raises(FatalError, match=r"no bucket 'nosuch'.*aws s3 mb"):
        open_store("s3://nosuch/x")
    with pytest.raises(FatalError, match=r"no store at s3://bucket/empty.*rlip run"):
        existing_store("s3://bucket/empty")
    with pytest.raises(FatalError, match="nosuch://x"):
        open_store("nosuch://x")
    monkeypatch.setattr("storage.remote.time.sleep", lambda seconds: None)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(
        RetryableError,
        match=r"s3://bucket/x can't be reached.* the endpoint is http://127\.0\.0\.1:9, set by AWS_ENDPOINT_URL",
    ):
        open_store("s3://bucket/x")
    for name in [name for name in os.environ if name.startswith("AWS_") and "KEY" in name]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(FatalError, match="AWS_ACCESS_KEY_ID"):
        open_store("s3://bucket/x")
