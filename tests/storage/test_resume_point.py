"""A resume point: another machine goes on from the copies in the store, and only complete copies count."""

import errno
import json
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import Mock
from uuid import uuid4

import pytest
from faulty_files import FaultyFiles

from storage.atomic import write_atomic
from storage.digests import digest_bytes
from storage.errors import FatalError, RetryableError
from storage.remote import Remote
from storage.resume_point import ResumePoint


class Machine:
    """A scratch folder with its resume point."""

    def __init__(self, url: str, folder: Path, files: FaultyFiles | None = None) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.remote = Remote(url, files or FaultyFiles(), ())
        self.point = ResumePoint(self.remote, "key", folder, "resume.json")

    def keep(self, **files: bytes) -> None:
        """Write files (`a__b`: file b in folder a) and the list that names them."""
        names = {name.replace("__", "/"): data for name, data in files.items()}
        for name, data in names.items():
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name).write_bytes(data)
        write_atomic(self.folder / "resume.json", json.dumps({"files": list(names)}).encode())

    @property
    def held(self) -> dict[str, bytes]:
        """What work resumes from: the files of the list."""
        return {name: (self.folder / name).read_bytes() for name in self.listed}

    @property
    def listed(self) -> Sequence[str]:
        """The names in the list."""
        return json.loads((self.folder / "resume.json").read_text())["files"]  # type: ignore[no-any-return]

    @property
    def visible(self) -> list[str]:
        """Every file and folder in the scratch folder, except the resume point's own."""
        return sorted(p.relative_to(self.folder).as_posix() for p in self.folder.rglob("*") if p.name[0] != ".")

    @property
    def copies(self) -> list[bytes]:
        """The copies in the store, without their record."""
        found = self.remote.read_many(f"scratch/key/{name}" for name in self.remote.listing("scratch/key"))
        return sorted(data for path, data in found.items() if not path.endswith("record.json"))


@pytest.fixture
def url() -> str:
    return f"memory://{uuid4().hex}"


@pytest.fixture
def one(url: str, tmp_path: Path) -> Machine:
    return Machine(url, tmp_path / "one")


@pytest.fixture
def other(url: str, tmp_path: Path) -> Machine:
    return Machine(url, tmp_path / "other")


def test_another_machine_gets_the_files_and_their_list(one, other):
    one.keep(weights=b"w", steps__a__b=b"1")
    one.point.send()
    other.point.fetch()
    assert other.held == {"weights": b"w", "steps/a/b": b"1"}
    assert other.visible == ["resume.json", "steps", "steps/a", "steps/a/b", "weights"]
    assert one.visible == other.visible, "nothing but copies is left behind"


def test_what_the_copies_do_not_have_goes_and_what_no_list_names_stays(one, other):
    one.keep(weights=b"new")
    one.point.send()
    other.keep(gone__a=b"1", full__b=b"2", weights=b"old")
    (other.folder / "full/log").write_bytes(b"mine")
    other.point.fetch()
    assert other.held == {"weights": b"new"}
    assert other.visible == ["full", "full/log", "resume.json", "weights"]


def test_copies_that_were_fetched_or_sent_are_not_taken_again(url, one, other):
    one.keep(weights=b"first")
    one.point.send()
    other.point.fetch()
    for machine in (one, other):
        machine.keep(weights=b"second")
        Machine(url, machine.folder).point.fetch()
        assert machine.held == {"weights": b"second"}, "work that this machine did since then is lost"


def test_only_a_list_that_changed_is_sent(url, tmp_path):
    files = FaultyFiles()
    one, other = Machine(url, tmp_path / "one", files), Machine(url, tmp_path / "other", FaultyFiles())
    one.point.send()
    assert files.asked == [], "there is no list"
    one.keep(weights=b"w")
    one.point.send()
    asked = list(files.asked)
    one.point.send()
    assert files.asked == asked
    other.point.fetch()
    assert isinstance(other.remote._files, FaultyFiles)
    asked = list(other.remote._files.asked)
    other.point.send()
    assert other.remote._files.asked == asked, "what was just fetched is there"


def test_copies_that_were_replaced_are_removed_and_the_others_stay(one, other):
    one.keep(kept=b"k", changed=b"1", dropped=b"d")
    one.point.send()
    one.keep(kept=b"k", changed=b"2")
    one.point.send()
    assert one.copies == [b"2", b"k"]
    other.point.fetch()
    assert other.held == {"kept": b"k", "changed": b"2"}


def test_files_of_one_name_in_two_folders_have_a_copy_each(one, other):
    one.keep(a__step=b"1", b__step=b"1")
    one.point.send()
    other.point.fetch()
    assert other.held == {"a/step": b"1", "b/step": b"1"}


def test_what_a_killed_process_did_not_send_is_sent_by_the_next_one(url, one, other):
    one.keep(step__1=b"1")
    one.point.send()
    one.keep(step__2=b"2")
    with Machine(url, one.folder).point.synchronised(interval=100):
        pass
    other.point.fetch()
    assert other.held == {"step/2": b"2"}


@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_transfer_that_failed_is_made_whole_by_the_next(at, url, tmp_path, one, other):
    one.keep(weights=b"first")
    one.point.send()
    faulty = Machine(url, tmp_path / "one", FaultyFiles(at, "conflict"))
    faulty.keep(weights=b"second", steps=b"2")
    with pytest.raises(RetryableError):
        faulty.point.send()
    other.point.fetch()
    assert other.held == {"weights": b"first"}, "the record names complete copies alone"
    faulty.point.send()
    other.point.fetch()
    assert other.held == {"weights": b"second", "steps": b"2"}
    assert faulty.visible == ["resume.json", "steps", "weights"]


def test_a_file_that_grows_after_the_copy_was_begun_is_sent_as_it_was(url, tmp_path):
    class Growing(FaultyFiles):
        def put_file(self, lpath: str, rpath: str, **settings: object) -> None:
            with (tmp_path / "one/log").open("ab") as file:
                file.write(b" and more")
            super().put_file(lpath, rpath, **settings)

    one, other = Machine(url, tmp_path / "one", Growing()), Machine(url, tmp_path / "other")
    one.keep(log=b"lines")
    one.point.send()
    other.point.fetch()
    assert other.held == {"log": b"lines"}


@pytest.mark.parametrize("record", [b"torn", b"[]", b'{"weights": 1}'])
def test_a_record_that_tells_nothing_is_ignored_and_replaced(record, url, one, other):
    one.remote.write("scratch/key/record.json", record)
    one.keep(weights=b"mine")
    Machine(url, one.folder).point.fetch()
    assert (one.folder / "weights").read_bytes() == b"mine"
    one.keep(weights=b"mine")
    one.point.send()
    other.point.fetch()
    assert other.held == {"weights": b"mine"}


def test_copies_that_do_not_match_the_record_are_left(one, other):
    one.keep(weights=b"w")
    one.point.send()
    one.remote.write(f"scratch/key/{digest_bytes(b'w')[:16]}-weights", b"x")
    other.keep(weights=b"mine")
    other.point.fetch()
    assert other.held == {"weights": b"mine"}


class Watched(FaultyFiles):
    """Says when a copy was tried, and when a record was written."""

    def __init__(self, *given: Any, **settings: Any) -> None:
        super().__init__(*given, **settings)
        self.tried, self.sent = threading.Event(), threading.Event()

    def put_file(self, *given: Any, **settings: Any) -> None:
        self.tried.set()
        super().put_file(*given, **settings)

    def pipe_file(self, *given: Any, **settings: Any) -> None:
        super().pipe_file(*given, **settings)
        self.sent.set()


def test_while_work_lasts_its_files_are_sent_as_they_come(url, tmp_path):
    one, other, third = (Machine(url, tmp_path / name, Watched()) for name in ("one", "other", "third"))
    with one.point.synchronised(interval=0.01):
        one.keep(weights=b"1")
        assert one.remote._files.sent.wait(20), "nothing was sent before the work ended"
        with other.point.synchronised(interval=100):
            assert other.held == {"weights": b"1"}
            other.keep(weights=b"1", steps=b"2")
    third.point.fetch()
    assert third.held == {"weights": b"1", "steps": b"2"}, "the last state is sent at the end, however seldom one looks"


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("fails", ["the other side", "this machine"])
def test_a_transfer_that_failed_is_tried_again_while_work_lasts(fails, url, tmp_path):
    files = Watched(2, "conflict", times=2) if fails == "the other side" else Watched()
    one = Machine(url, tmp_path / "one", files)
    with one.point.synchronised(interval=0.01):
        if fails == "this machine":
            write_atomic(one.folder / "resume.json", b'{"files": ["weights"]}')
            time.sleep(0.1)
            assert not files.tried.is_set(), "the file is not there yet"
            write_atomic(one.folder / "weights", b"1")  # an empty file would be sent while it is written
        else:
            one.keep(weights=b"1")
        assert files.sent.wait(20)
    assert one.copies == [b"1"]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("left", ["a file is gone", "the other side fails"])
def test_the_last_transfer_may_fail(left, url, tmp_path):
    one = Machine(url, tmp_path / "one", FaultyFiles(2, "conflict", times=99))
    with one.point.synchronised(interval=100):
        one.keep(weights=b"1")
        if left == "a file is gone":
            (one.folder / "weights").unlink()
    assert Machine(url, one.folder).copies == []


@pytest.mark.parametrize("listed, said", [
    (b"{", "the list of files to resume from: damaged ("),
    (b'{"files": ["../x"]}', "the list of files to resume from names one outside its folder: ['../x']"),
])  # fmt: skip
def test_a_list_that_can_not_be_used_is_reported(listed, said, url, tmp_path):
    one = Machine(url, tmp_path / "one")
    (one.folder / "resume.json").write_bytes(listed)
    with pytest.raises(FatalError) as caught:
        one.point.send()
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize("at", [1, 2])
def test_work_that_would_replace_copies_which_can_not_be_fetched_does_not_begin(at, url, tmp_path, one):
    one.keep(weights=b"a week")
    one.point.send()
    late = Machine(url, tmp_path / "late", FaultyFiles(at, "conflict"))
    with pytest.raises(RetryableError, match="can't be reached"), late.point.synchronised(interval=100):
        late.keep(weights=b"a minute")
    assert one.copies == [b"a week"]
    with late.point.synchronised(interval=100):
        assert late.held == {"weights": b"a week"}


def test_work_that_would_replace_copies_does_not_begin_while_this_disk_is_full(one, other, monkeypatch):
    one.keep(weights=b"a week")
    one.point.send()
    full = Mock(side_effect=OSError(errno.ENOSPC, "full"))
    monkeypatch.setattr("storage.resume_point.write_atomic", full)
    with pytest.raises(FatalError, match="disk full"), other.point.synchronised(interval=100):
        other.keep(weights=b"a minute")
    assert one.copies == [b"a week"]


def test_copies_replace_a_damaged_list(one, other):
    one.keep(weights=b"w")
    one.point.send()
    (other.folder / "resume.json").write_bytes(b"{")
    with other.point.synchronised(interval=100):
        assert other.held == {"weights": b"w"}


@pytest.mark.filterwarnings("error")
def test_work_goes_on_without_copies_when_the_other_side_fails(url, tmp_path):
    one = Machine(url, tmp_path / "one", FaultyFiles(2, "conflict", times=10**6))
    with one.point.synchronised(interval=0.001):
        one.keep(weights=b"1")
    assert one.held == {"weights": b"1"} and Machine(url, one.folder).copies == []


def test_without_a_list_nothing_is_kept(url, tmp_path):
    files = FaultyFiles()
    with ResumePoint(Remote(url, files, ()), "key", tmp_path, "").synchronised(interval=0.001):
        (tmp_path / "a").write_bytes(b"1")
    assert files.asked == []
