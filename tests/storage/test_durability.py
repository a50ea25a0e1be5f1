"""The order in which bytes and names reach the disk, what locks keep apart, and what is rechecked before removal."""

import errno
import fcntl
import os
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from faulty_disk import Died, FaultyDisk
from toy_store import put

from storage import local_store
from storage.atomic import write_atomic
from storage.damage import find_damage
from storage.errors import FatalError
from storage.local_store import LocalStore

_watched: list[tuple[str, str]] | None = None


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    """Python itself reports each file it opens to write, each rename and each tree that it removes, but no syncs."""
    if _watched is not None and event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR):
        _watched.append(("write", str(arguments[0])))
    elif _watched is not None and event == "os.rename":
        _watched.append(("rename", f"{arguments[0]} {arguments[1]}"))
    elif _watched is not None and event == "shutil.rmtree":
        _watched.append(("remove", str(arguments[0])))


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What this process does to disks, in order."""
    global _watched
    if _watched is None:
        sys.addaudithook(_hook)  # can't be taken back
    events = _watched = []
    sync = os.fsync

    def fsync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        sync(descriptor)
        events.append(("sync", str(path)))

    monkeypatch.setattr(os, "fsync", fsync)
    return events


def test_bytes_are_on_the_disk_before_their_name_and_the_name_before_a_commit_returns(tmp_path, watched):
    artifact = put(LocalStore(tmp_path / "deep" / "store"), "caption")
    root, place = tmp_path / "deep" / "store", artifact.folder
    moved = next(at for at, (what, name) in enumerate(watched) if what == "rename" and name.endswith(f" {place}"))
    draft = watched[moved][1].removesuffix(f" {place}")
    for name in (*artifact.manifest.files, "manifest.json"):
        written = [at for at, event in enumerate(watched) if event == ("write", f"{draft}/{name}")]
        synced = [at for at, event in enumerate(watched) if event == ("sync", f"{draft}/{name}")]
        assert written and synced and written[-1] < synced[-1] < moved, name
    assert ("sync", draft) in watched[:moved], "names in the draft"
    assert ("sync", str(place.parent)) in watched[moved:], "the name of the artifact"
    for folder in (tmp_path, tmp_path / "deep", root, root / "artifacts"):
        assert ("sync", str(folder)) in watched[:moved], "names of new folders"


def test_a_file_is_on_the_disk_before_its_name(tmp_path, watched):
    write_atomic(tmp_path / "x", b"new")
    (write, sync, rename, folder) = watched
    aside = write[1]
    assert [write[0], sync, rename, folder] == [
        "write", ("sync", aside), ("rename", f"{aside} {tmp_path}/x"), ("sync", str(tmp_path))
    ]  # fmt: skip
    assert (tmp_path / "x").read_bytes() == b"new" and list(tmp_path.iterdir()) == [tmp_path / "x"]


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
    calls = 0
    for at in range(1, 10):
        root = tmp_path / str(at)
        artifact = put(LocalStore(root), "caption")
        disk = FaultyDisk(root, at, "torn write")
        try:
            LocalStore(root, disk).discard("caption", artifact.key)
            calls = at - 1
            break
        except Died:
            pass
        assert [damage for damage in find_damage(LocalStore(root)) if damage is not None] == []
        LocalStore(root).discard("caption", artifact.key)
        assert LocalStore(root).sweep() == (at > 1)
        assert list((root / "pending").glob("[!.]*")) == []
    assert calls == 3, "one rename, one sync, one removal"


def test_a_name_is_off_the_disk_before_its_files_and_before_a_removal_returns(tmp_path, watched):
    store = LocalStore(tmp_path)
    folder = put(store, "caption").folder
    watched.clear()
    store.discard("caption", folder.name)
    (moved, synced, removed) = watched
    assert moved == ("rename", f"{folder} {removed[1]}")
    assert synced == ("sync", str(folder.parent)) and removed[0] == "remove"
    assert not folder.exists() and not Path(removed[1]).exists()


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


def test_a_full_disk_at_the_root_is_told(tmp_path):
    for at in range(1, 7):
        root = tmp_path / str(at)
        root.mkdir()
        with pytest.raises(FatalError, match=r"can't be written \(No space left on device\); set `store`"):
            LocalStore(root / "store", FaultyDisk(root, at, errno.ENOSPC))
