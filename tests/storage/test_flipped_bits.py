"""A flipped bit in any store file is found by `rlip store verify`; in a remote one's copies, it is mended on use."""

import json
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from faulty_disk import flip
from faulty_files import FaultyFiles
from toy_chain import bytes_of, run_chain

from pipeline.cli.store import verify
from pipeline.labels.verdict_log import VerdictLog
from pipeline.labels.verdicts import JudgedRelation, Verdict
from storage.errors import FatalError
from storage.json_files import sealed_json
from storage.lease import Patience
from storage.local_store import LocalStore
from storage.remote_store import RemoteStore
from storage.runs import Run
from storage.store import Store


def _flips(path: Path, number: int) -> Iterator[int]:
    """Flip bits of a file, one at a time, and restore them."""
    original = path.read_bytes()
    size = 8 * len(original)
    for bit in range(0, size, max(1, size // number)):
        flip(path, bit // 8, (bit + bit // 8) % 8)
        yield bit
        path.write_bytes(original)


def _fill(store: Store) -> Run:
    """One file of each kind, as runs write them."""
    run_chain(store)
    run = Run(store, "small")
    run.note("recipe", {"name": "small", "limits": [1, 2]})
    run.note("outcome", [{"step": "first"}])
    run.append("completed", host="h")
    store.put(store.root / "cuts" / "toys.json", sealed_json({"partitions": [[1, 2], [3]]}))
    return run


def test_in_a_store_it_is_found_by_verify(tmp_path, capsys):
    _fill(LocalStore(tmp_path))
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path.parent.name != "pending"]
    assert {path.relative_to(tmp_path).parts[0] for path in files} == {"artifacts", "runs", "cuts"} and len(files) == 12
    for path in files:
        for bit in _flips(path, 10):
            with pytest.raises(FatalError, match="damage"):
                verify(None, repair=False, store=tmp_path, as_json=True)
            told = json.loads(capsys.readouterr().out or '{"damaged": [], "files": []}')
            assert told["damaged"] or told["files"], f"{path}, bit {bit}"
    verify(None, repair=False, store=tmp_path, as_json=True)


def test_verdicts_are_named_line_by_line_beside_artifacts_and_stay(tmp_path, capsys):
    _fill(LocalStore(tmp_path))
    relation = JudgedRelation("d", (1, 1, 9, 9), (2, 2, 9, 9), "on")
    VerdictLog(tmp_path / "verdicts").append(
        [Verdict(relation, "accept", "ada", "2026-01-31T12:00:00Z", "cup", "table")]
    )
    path = tmp_path / "verdicts" / "ada.jsonl"
    verify(None, repair=False, store=tmp_path, as_json=True)
    examined = json.loads(capsys.readouterr().out)["examined"]
    for _ in _flips(path, 10):
        before = path.read_bytes()
        with pytest.raises(FatalError, match="damage"):
            verify(None, repair=True, store=tmp_path, as_json=True)
        told = json.loads(capsys.readouterr().out)
        (found,) = told["files"]
        assert f"{path}:" in found["what"] and "judge again" in found["what"]
        assert told["examined"] == examined and path.read_bytes() == before


def test_repair_removes_damaged_caches_and_no_records(tmp_path, capsys):
    _fill(LocalStore(tmp_path))
    cache, cut = tmp_path / "parses.sqlite", tmp_path / "cuts" / "toys.json"
    cache.write_bytes(b"no database" * 100)
    (tmp_path / "indexes" / "toys").mkdir(parents=True)
    (tmp_path / "indexes" / "toys" / "records.parquet").write_bytes(b"x")
    with pytest.raises(FatalError, match="--repair"):
        verify(None, repair=False, store=tmp_path, as_json=True)
    assert len(json.loads(capsys.readouterr().out)["files"]) == 2 and cache.exists()
    verify(None, repair=True, store=tmp_path, as_json=True)
    assert json.loads(capsys.readouterr().out)["removed"] == 2
    assert not cache.exists() and list((tmp_path / "indexes").iterdir()) == []
    cut.write_bytes(cut.read_bytes().replace(b"3", b"4"))
    with pytest.raises(FatalError, match="for other files, the messages above say what to do"):
        verify(None, repair=True, store=tmp_path, as_json=False)
    assert cut.exists() and "those that move to another partition are recomputed" in capsys.readouterr().out


class Copies:
    """A remote store, all of whose files were copied to this machine. Its files there stay as they are."""

    def __init__(self, folder: Path) -> None:
        self.url, self.folder = f"memory://{uuid4().hex}", folder
        _fill(self.open())
        other = folder.with_name("other")
        self.folder = other
        self.use()

    def open(self) -> RemoteStore:
        return RemoteStore(self.url, self.folder, FaultyFiles(), (), Patience(0.05, 0.01, 0.5))

    def use(self) -> tuple[object, object, object, object]:
        """What a process that begins now reads of the store."""
        store = self.open()
        made = bytes_of(store)
        run = Run(store, "small")
        keys = [(run.stage(step), key) for step in run.steps() for key in run.keys(step).values()]
        brought = store.fetch_artifacts([store.folder(*place) for place in keys])
        held = {a.key: [a.file(name).read_bytes() for name in a.manifest.files] for a in brought}
        cut = (store.root / "cuts" / "toys.json").read_bytes()
        return made, held, cut, [record.facts for record in run.records()]


def test_in_a_remote_stores_copies_it_is_mended_on_use(tmp_path):
    copies = Copies(tmp_path / "one")
    whole = copies.use()
    files = [path for path in copies.folder.rglob("*") if path.is_file() and path.parent.name != "pending"]
    kinds = {path.relative_to(copies.folder).parts[0] for path in files}
    assert kinds >= {"artifacts", "files", "manifests", "runs", "cuts", "mirrored.json"}
    for path in files:
        for bit in _flips(path, 2):
            assert copies.use() == whole, f"{path}, bit {bit}"
        path.write_bytes(b"torn")
        assert copies.use() == whole, f"{path}, torn"


def test_damaged_copies_of_a_remote_store_are_found(tmp_path):
    copies = Copies(tmp_path / "one")
    assert list(copies.open().damaged_copies()) == []
    for top in ("artifacts", "files", "manifests"):
        path = next(path for path in (copies.folder / top).rglob("*") if path.is_file())
        for bit in _flips(path, 3):
            (found,) = copies.open().damaged_copies()
            assert path.is_relative_to(found), f"{path}, bit {bit}"
