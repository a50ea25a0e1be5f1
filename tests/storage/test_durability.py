"""What a commit syncs and in which order, writes that the system cuts short, and what locks keep apart."""

import errno
import fcntl
import os
import threading
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from faulty_disk import Died, FaultyDisk, NoSync
from toy_store import put

from storage import local_store
from storage.atomic import write_atomic
from storage.damage import find_damage
from storage.errors import FatalError
from storage.local_store import LocalStore


def test_the_files_of_a_commit_and_all_new_folders_above_them_are_synced(tmp_path):
    disk, root = NoSync(), tmp_path / "deep" / "store"
    artifact = put(LocalStore(root, disk), "caption")
    assert {path.name for path in disk.files} == {*artifact.manifest.files, "manifest.json"}
    assert {tmp_path, tmp_path / "deep", root, root / "artifacts", artifact.folder.parent} <= set(disk.folders)


def test_a_file_is_on_the_disk_before_its_name(tmp_path, monkeypatch):
    disk = FaultyDisk(tmp_path, 0, "stop")
    write_atomic(tmp_path / "x", b"new", disk)
    assert disk.done == ["create", "write", "fsync", "rename", "fsync folder", "unlink"]
    assert (tmp_path / "x").read_bytes() == b"new" and list(tmp_path.iterdir()) == [tmp_path / "x"]
    sync = Mock(wraps=os.fsync)
    monkeypatch.setattr(os, "fsync", sync)
    write_atomic(tmp_path / "x", b"newer")
    assert sync.call_count == 2


def test_syncs_at_once_miss_no_file_and_tell_each_error(tmp_path):
    paths = [tmp_path / str(number) for number in range(9)]
    for path in paths:
        path.write_bytes(b"x")
    whole = FaultyDisk(tmp_path, 0, "stop")
    whole.sync_all(paths, tmp_path)
    assert sorted(whole.done) == ["fsync"] * 9 + ["fsync folder"]
    for at in range(1, 11):
        with pytest.raises(OSError, match="Input/output error"):
            FaultyDisk(tmp_path, at, errno.EIO).sync_all(paths, tmp_path)


def test_a_write_goes_on_where_the_system_stopped_it(tmp_path):
    class Short(FaultyDisk):
        def write_some(self, descriptor: int, data: bytes) -> int:
            return super().write_some(descriptor, data[:3])

    Short(tmp_path, 0, "stop").write(tmp_path / "x", b"0123456789")
    assert (tmp_path / "x").read_bytes() == b"0123456789"


def test_an_artifact_that_is_removed_is_whole_or_gone_wherever_that_stops(tmp_path):
    for at in range(1, 10):
        root = tmp_path / str(at)
        artifact = put(LocalStore(root), "caption")
        disk = FaultyDisk(root, at, "torn write")
        try:
            LocalStore(root, disk).discard("caption", artifact.key)
            break
        except Died:
            pass
        assert [damage for damage in find_damage(LocalStore(root)) if damage is not None] == []
        LocalStore(root).discard("caption", artifact.key)
        assert LocalStore(root).sweep() == (at > 1)
        assert list((root / "pending").glob("[!.]*")) == []
    assert disk.done == ["rename", "fsync folder", "rmtree"], "the name is off the disk before the files"


def test_a_sweep_waits_until_a_draft_that_is_being_opened_holds_its_lock(tmp_path, monkeypatch):
    store, ended = LocalStore(tmp_path), threading.Event()

    def sweep() -> None:
        LocalStore(tmp_path).sweep()
        ended.set()

    sweeper = threading.Thread(target=sweep)
    take = fcntl.flock

    def flock(lock: Any, kind: int) -> None:
        if (
            Path(lock.name if isinstance(lock.name, str) else f"/proc/self/fd/{lock.fileno()}")
            .resolve()
            .name.startswith("draft-")
            and not sweeper.ident
        ):
            sweeper.start()
            assert not ended.wait(0.3), "it swept a draft whose lock was about to be held"
        take(lock, kind)

    monkeypatch.setattr(local_store.fcntl, "flock", flock)
    with store.draft() as draft:
        sweeper.join(20)
        assert draft.is_dir() and draft.with_suffix(".lock").is_file()
    assert ended.is_set()


def test_a_full_disk_at_the_root_is_reported(tmp_path):
    for at in range(1, 7):
        root = tmp_path / str(at)
        root.mkdir()
        with pytest.raises(FatalError, match=r"can't be written \(No space left on device\); set `store`"):
            LocalStore(root / "store", FaultyDisk(root, at, errno.ENOSPC))
