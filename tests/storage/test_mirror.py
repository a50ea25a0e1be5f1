"""This machine's copies of runs and files are those at the URL, and only what changed is read."""

import os
import time
from pathlib import Path
from unittest.mock import Mock
from uuid import uuid4

import pytest
from faulty_disk import NoSync
from faulty_files import FaultyFiles

from storage.digests import digest_bytes, digest_file
from storage.disk import Disk
from storage.errors import FatalError
from storage.manifest import FileEntry
from storage.remote import Remote
from storage.remote_store import VerifiedFiles, mirror


class Here:
    """A machine's folder, its mirror, and how often a file was read for it."""

    def __init__(self, url: str, root: Path, disk: Disk | None = None) -> None:
        self.files = FaultyFiles()
        self.root, self.remote, self.disk = root, Remote(url, self.files, ()), disk or Disk()

    def refresh(self) -> int:
        """Update the copies. Returns how many files were read."""
        self.files.asked.clear()
        mirror(self.remote, self.root, self.disk)
        assert self.files.asked.count("find") == 2
        return self.files.asked.count("cat_file")

    @property
    def copies(self) -> dict[str, bytes]:
        """Path → bytes of every copy."""
        found = (path for top in ("runs", "cuts") for path in (self.root / top).rglob("*") if path.is_file())
        return {path.relative_to(self.root).as_posix(): path.read_bytes() for path in found}


RECORDS = {"runs/toy/steps/parse.json": b"{}", "runs/toy/recipe.json": b"[1]", "cuts/toys.json": b"[2]"}


@pytest.fixture
def there() -> Remote:
    remote = Remote(f"memory://{uuid4().hex}", FaultyFiles())
    for path, data in RECORDS.items():
        remote.write(path, data)
    remote.write("artifacts/parse/key/manifest.json", b"{}")
    return remote


@pytest.fixture
def here(there: Remote, tmp_path: Path) -> Here:
    return Here(there.url, tmp_path / "here")


def test_runs_and_partition_maps_are_copied_once_and_again_when_a_copy_changed_or_went(here):
    assert here.refresh() == 3 and here.copies == RECORDS
    assert here.refresh() == 0 and here.copies == RECORDS
    (here.root / "cuts/toys.json").write_bytes(b"")
    (here.root / "runs/toy/recipe.json").unlink()
    assert here.refresh() == 2 and here.copies == RECORDS


def test_what_changed_there_is_read_again(here, there):
    here.refresh()
    there.write("cuts/toys.json", b"[3]")
    there.write("runs/other/recipe.json", b"[4]")
    there.remove(["runs/toy/recipe.json"])
    assert here.refresh() == 2
    assert here.copies == {
        "runs/toy/steps/parse.json": b"{}", "cuts/toys.json": b"[3]", "runs/other/recipe.json": b"[4]",
    }  # fmt: skip
    assert here.refresh() == 0


@pytest.mark.parametrize("note", [b"{}", b"[" * 100_000])
def test_without_a_note_that_can_be_read_all_is_read_again(note, here):
    here.refresh()
    (here.root / "mirrored.json").write_bytes(note)
    assert here.refresh() == 3 and here.copies == RECORDS
    assert here.refresh() == 0


def test_what_a_run_writes_here_meanwhile_stays(here):
    here.refresh()
    for name, time_of_writing in (("new", time.time() + 60), ("old", time.time() - 60)):
        path = here.root / f"runs/toy/{name}.json"
        path.write_bytes(b"mine")
        os.utime(path, (time_of_writing, time_of_writing))
    (here.root / "runs/toy/gone.json").symlink_to("nowhere")  # like one that another process has removed meanwhile
    assert here.refresh() == 0 and here.copies == {**RECORDS, "runs/toy/new.json": b"mine"}


@pytest.mark.parametrize(("listed", "named"), [("/../escaped.json", "runs/../escaped.json"), ("", "runs/.")])
def test_a_record_whose_name_leads_out_is_refused(listed, named, here):
    files = FaultyFiles()
    files.find = lambda path, **_: {f"{path}{listed}": {"type": "file", "size": 2}}
    remote = Remote(f"memory://{uuid4().hex}", files, ())
    with pytest.raises(FatalError) as caught:
        mirror(remote, here.root, Disk())
    assert str(caught.value) == f"{remote.url}: a record is named {named!r}, which leads out of the store; remove it"
    assert not here.root.exists()


def test_copies_and_their_note_are_on_the_disk(there, tmp_path):
    disk = NoSync()
    Here(there.url, tmp_path / "here", disk).refresh()
    assert len(disk.files) == 4


def test_a_file_is_read_once_until_it_changes_also_in_bytes_alone(tmp_path, monkeypatch):
    reads = Mock(wraps=digest_file)
    monkeypatch.setattr("storage.manifest.digest_file", reads)
    files, path = VerifiedFiles(), tmp_path / "one"
    same, evil = (FileEntry(digest=digest_bytes(data), size=4) for data in (b"same", b"evil"))
    path.write_bytes(b"same")
    assert files.holds(path, same) and not files.holds(path, evil) and files.holds(path, same)
    assert reads.call_count == 2
    was = path.stat()
    path.write_bytes(b"evil")
    os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))
    while path.stat().st_ctime_ns == was.st_ctime_ns:  # the file system's clock ticks every few milliseconds
        path.chmod(0o600)
    assert not files.holds(path, same)
