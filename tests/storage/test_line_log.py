"""A file of JSON lines: mode, limits, checksums, failed writes. Crashes and other writers: `test_verdict_log.py`."""

import errno
import os
import stat
from pathlib import Path

import pytest
from faulty_disk import NoSync

from storage.disk import Disk
from storage.errors import FatalError, RetryableError
from storage.line_log import MAX_LINE, LineLog

CHECKSUM = len(b', "checksum": "01234567"')


@pytest.fixture
def log(tmp_path: Path) -> LineLog:
    return LineLog(tmp_path / "folder" / "log.jsonl")


def _texts(log: LineLog) -> list[bytes | None]:
    """The lines since the last reading, without their checksums; None for one that can't be trusted."""
    return [line.text and line.text[: -CHECKSUM - 1] + b"}" for line in log.read_new().lines]


def test_without_lines_nothing_is_written(log):
    log.append([])
    assert not log.path.parent.exists()


def test_others_may_read_the_file_and_nobody_executes_it(log):
    umask = os.umask(0)
    try:
        log.append([b'{"a": 1}'])
    finally:
        os.umask(umask)
    assert stat.S_IMODE(log.path.stat().st_mode) == 0o644


def test_a_line_may_fill_its_limit_and_no_more(log):
    fits = b'{"a": "%s"}' % (b"x" * (MAX_LINE - CHECKSUM - 1 - len(b'{"a": ""}')))
    log.append([fits])
    assert _texts(log) == [fits]
    said = f"^{log.path}: a line has at most 65,536 bytes and no line break; nothing was written$"
    for refused in (fits.replace(b"x", b"xx", 1), b'{"a":\n1}'):
        with pytest.raises(FatalError, match=said):
            log.append([b'{"a": 1}', refused])
    assert _texts(log) == []


@pytest.mark.parametrize("number, kind, said", [
    (errno.ENOSPC, FatalError, "writing {path}: .*free space"),
    (errno.EFBIG, FatalError, "^{path} can't grow further .*raise the file size limit"),
    (errno.EIO, RetryableError, "writing {path}"),
])  # fmt: skip
def test_after_a_failed_write_the_file_is_as_before(number, kind, said, log):
    class Failing(Disk):
        def append(self, descriptor: int, data: bytes) -> None:
            super().append(descriptor, data[: len(data) // 2])
            raise OSError(number, "no")

    log.append([b'{"a": 1}'])
    before = log.path.read_bytes()
    with pytest.raises(kind, match=said.format(path=log.path)):
        LineLog(log.path, Failing()).append([b'{"a": 2}'])
    assert log.path.read_bytes() == before


def test_lines_are_on_the_disk_and_the_new_file_is_in_its_folder(log):
    log.path.parent.mkdir()
    disk = NoSync()
    told = LineLog(log.path, disk)
    told.append([b'{"a": 1}'])
    assert (disk.files, disk.folders) == ([log.path], [log.path.parent])
    told.append([b'{"a": 2}'])
    assert (disk.files, disk.folders) == ([log.path] * 2, [log.path.parent])


def test_a_file_that_was_replaced_or_cut_is_read_afresh(log):
    log.append([b'{"a": 1}', b'{"a": 2}'])
    log.read_new()
    whole = log.path.read_bytes()
    os.truncate(log.path, len(whole) // 2)
    found = log.read_new()
    assert found.afresh and [line.number for line in found.lines] == [1]
    other = log.path.with_name("other")
    other.write_bytes(whole)
    other.rename(log.path)
    found = log.read_new()
    assert found.afresh and [line.number for line in found.lines] == [1, 2]


def test_a_line_that_changed_or_is_too_long_is_not_given_out(log):
    log.append([b'{"a": 1}', b'{"a": 2}', b'{"a": 3}'])
    data = log.path.read_bytes().replace(b'"a": 2', b'"a": 7')
    log.path.write_bytes(data + b'{"a": "' + b"x" * 3 * MAX_LINE + b'"}\n{"old": 1}\n')
    lines = log.read_new().lines
    assert [(line.number, line.fault) for line in lines] == [
        (1, ""), (2, "changed since it was written"), (3, ""), (4, "longer than 65,536 bytes"), (5, ""),
    ]  # fmt: skip
    assert [line.text is None for line in lines] == [False, True, False, True, False]
    assert lines[4].text == b'{"old": 1}', "earlier versions wrote no checksums"
