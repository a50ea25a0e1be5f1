"""Tars that anyone may have written: nothing is extracted, nothing hangs, and what is wrong is named."""

from __future__ import annotations

import errno
import gzip
import io
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pytest

import storage.shards.index
from storage.errors import FatalError
from storage.shards.index import compare, index_tar, read_index_file, write_index
from storage.shards.reader import DamagedSample, SampleReader
from storage.shards.sample_map import ShardFile, write_sample_map
from storage.shards.scan import MAX_GLOBALS, MAX_HEADER, MAX_NAME, Member, Refused, scan_tar
from storage.tables import SHARD_MEMBERS, table_bytes
from tests.hostile.tars import entry, negative, plain

Entry = tuple[str, bytes]


def write(path: Path, *entries: Entry, form: int = tarfile.USTAR_FORMAT, prefix: bytes = b"") -> Path:
    """Writes a tar of plain files after the blocks of `prefix`."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for name, data in entries:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    path.write_bytes(prefix + buffer.getvalue())
    return path


def special(kind: bytes, name: str = "evil.jpg", link: str = "", size: bytes = b"%011o\0" % 0) -> bytes:
    """A header of any type."""
    return entry(name, kind, size, link=link)


def members(path: Path) -> list[str]:
    return [f"{entry.key}.{entry.extension}" for entry in scan_tar(path) if isinstance(entry, Member)]


def refused(path: Path) -> list[Refused]:
    return [entry for entry in scan_tar(path) if isinstance(entry, Refused)]


GOOD: Entry = ("a.jpg", b"pixels")


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (special(tarfile.SYMTYPE, link="/etc/passwd"), "link to '/etc/passwd'"),
        (special(tarfile.LNKTYPE, link="../a"), "link to '../a'"),
        (special(tarfile.CHRTYPE), "device"),
        (special(tarfile.FIFOTYPE), "device"),
        (special(tarfile.REGTYPE, name="/etc/cron.jpg"), "leads out of its folder"),
        (special(tarfile.REGTYPE, name="x/../../cron.jpg"), "leads out of its folder"),
        (special(tarfile.REGTYPE, name="b\x1b[2J.jpg"), "can't be printed"),
        (special(tarfile.REGTYPE, name="b.pkl"), "pickled"),
        (special(tarfile.REGTYPE, name="b.pkl.gz"), "pickled"),
        (special(tarfile.REGTYPE, name="b.PTH"), "pickled"),
    ],
)
def test_an_entry_that_could_do_harm_is_refused_by_name_and_the_others_stay(
    tmp_path: Path, header: bytes, reason: str
) -> None:
    tar = write(tmp_path / "x.tar", GOOD, prefix=header)
    [entry] = refused(tar)
    assert reason in entry.reason and entry.name and not entry.damaged
    assert members(tar) == ["a.jpg"]
    assert sorted(tmp_path.iterdir()) == [tar]


def test_an_entry_longer_than_its_tar_is_damage(tmp_path: Path) -> None:
    tar = write(tmp_path / "x.tar", GOOD, ("b.jpg", b"1" * 5000), ("c.jpg", b""))
    os.truncate(tar, 4000)
    assert members(tar) == ["a.jpg"]
    [entry] = refused(tar)
    assert (entry.name, entry.damaged) == ("b.jpg", True)


def globals_of(count: int) -> bytes:
    """A global header of that many entries."""
    return tarfile.TarInfo.create_pax_global_header({f"k{number}": "v" for number in range(count)})


def test_a_long_global_header_is_not_applied_to_each_member(tmp_path: Path) -> None:
    tar = write(tmp_path / "x.tar", GOOD, prefix=globals_of(60_000))
    [entry] = scan_tar(tar)
    assert isinstance(entry, Refused) and entry.damaged and "a global header of 60000 entries" in entry.reason
    tar = write(tmp_path / "x.tar", GOOD, prefix=b"".join(globals_of(count) for count in (10, 5, MAX_GLOBALS)))
    assert members(tar) == ["a.jpg"] and refused(tar) == []


def test_entries_without_bytes_do_not_add_up_to_a_long_header(tmp_path: Path) -> None:
    """Between them nothing is skipped, so the headers are read as if they were one."""
    count = MAX_HEADER // 512 + 10
    assert len(members(write(tmp_path / "x.tar", *[(f"{number}.cls", b"") for number in range(count)]))) == count


MEASURE = """
import pathlib, sys, tracemalloc
from storage.shards.index import index_tar
tar = pathlib.Path(sys.argv[1])
index_tar(tar)  # loads what libraries load late
tracemalloc.start()
rows = len(index_tar(tar).table)
print(rows, tracemalloc.get_traced_memory()[1])
"""


def test_an_index_is_made_in_little_memory(tmp_path: Path) -> None:
    """A process of its own has no threads that other tests left, whose memory would be counted too."""
    tar = write(tmp_path / "x.tar", *[(f"{number:06d}.jpg", b"") for number in range(4000)])
    told = subprocess.run([sys.executable, "-c", MEASURE, str(tar)], check=True, capture_output=True, text=True)
    rows, peak = map(int, told.stdout.split())
    assert rows == 4000 and peak / rows < 1100


def test_a_damaged_header_ends_the_listing(tmp_path: Path) -> None:
    tar = write(tmp_path / "x.tar", GOOD, ("b.jpg", b"x"), ("c.jpg", b"x"))
    data = bytearray(tar.read_bytes())
    data[1024 + 10] ^= 1
    tar.write_bytes(data)
    assert members(tar) == ["a.jpg"]


def test_a_very_long_name_is_refused_at_once(tmp_path: Path) -> None:
    tar = write(tmp_path / "x.tar", ("d/" * 100_000 + "x", b""), GOOD, form=tarfile.PAX_FORMAT)
    [entry] = refused(tar)
    assert str(MAX_NAME) in entry.reason
    assert members(tar) == ["a.jpg"]


def test_the_key_of_an_earlier_sample_is_refused(tmp_path: Path) -> None:
    tar = write(tmp_path / "x.tar", GOOD, GOOD, ("b.jpg", b""), ("a.json", b"{}"), ("a.jpg", b"other"), ("c.jpg", b""))
    assert members(tar) == ["a.jpg", "b.jpg", "c.jpg"]
    assert [entry.reason for entry in refused(tar)] == [
        "has the name of an earlier member of its sample",
        "has the key of an earlier sample",
        "has the key of an earlier sample",
    ]
    index = index_tar(tar).table
    write_index(tar, index)
    samples = write_sample_map(tmp_path / "map", [ShardFile(str(tar), tmp_path / "x.index.parquet")])
    assert [SampleReader(samples).read(n) for n in range(3)] == [{"jpg": b"pixels"}, {"jpg": b""}, {"jpg": b""}]


def zip_bomb() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("a.jpg", bytes(2**26))
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data",
    [b"", b"no tar at all", bytes(range(256)) * 16, gzip.compress(bytes(10240), mtime=0), zip_bomb()],
    ids=["empty", "text", "bytes", "gzip", "zip"],
)
def test_what_is_no_tar_has_no_members_and_says_so(tmp_path: Path, data: bytes) -> None:
    tar = tmp_path / "x.tar"
    tar.write_bytes(data)
    [found] = scan_tar(tar)
    assert isinstance(found, Refused) and found.damaged
    assert list(scan_tar(write(tmp_path / "empty.tar"))) == [], "a tar without entries is no damage"


def test_what_is_left_out_is_told_apart_from_faults(tmp_path: Path) -> None:
    tar = write(tmp_path / "x.tar", GOOD, ("b.pkl", b"x"), prefix=special(tarfile.SYMTYPE, link="/etc/passwd"))
    compared = compare(tar, index_tar(tar).table)
    assert compared.faults == () and [entry.name for entry in compared.left_out] == ["evil.jpg", "b.pkl"]
    os.truncate(tar, 1026)
    assert compare(tar, index_tar(tar).table).faults == ("a.jpg: ends after the tar does",)


def test_each_kind_of_change_is_found_against_the_index(tmp_path: Path) -> None:
    entries = [("a.jpg", b"1111"), ("b.jpg", b"2222"), ("c.jpg", b"3333")]
    tar = write(tmp_path / "x.tar", *entries)
    index = index_tar(tar).table
    assert compare(tar, index).faults == ()
    write(tar, entries[0], ("b.jpg", b"2223"), ("d.jpg", b"4"))
    assert compare(tar, index).faults == (
        "b.jpg: has other bytes than the index says",
        "c.jpg: in the index, but not in the tar",
        "d.jpg: in the tar, but not in the index",
    )
    write(tar, entries[1], entries[0], entries[2])
    told = [fault.partition(": ")[2] for fault in compare(tar, index).faults]
    assert told == ["has another place than the index says"] * 2
    os.truncate(tar, 1600)
    assert any("ends after the tar does" in fault or "not in the tar" in fault for fault in compare(tar, index).faults)


def test_a_member_of_size_minus_1_is_damage_for_the_tar_and_for_its_index(tmp_path: Path) -> None:
    tar = tmp_path / "x.tar"
    tar.write_bytes(plain("a.jpg", b"pixels") + entry("b.jpg", size=negative(-1)) + bytes(10240))
    assert members(tar) == ["a.jpg"] and [found.reason for found in refused(tar)] == ["has a size below zero"]
    index = index_tar(tar).table
    assert compare(tar, index).faults == ("b.jpg: has a size below zero",)
    with pytest.raises(FatalError, match="a row whose size is below 0"):
        read_index_file(write_index(tar, changed(index, "size", -1)))


def test_rows_that_repeat_do_not_match(tmp_path: Path) -> None:
    tar = write(tmp_path / "x.tar", GOOD)
    index = index_tar(tar).table
    assert compare(tar, pa.concat_tables([index] * 50_000)).faults == (
        "x.tar: 49,999 rows of the index name a member again",
    )


def changed(index: pa.Table, column: str, value: object) -> pa.Table:
    at = index.schema.get_field_index(column)
    return index.set_column(at, index.schema.field(at), pa.array([value] * len(index), index.schema.field(at).type))


@pytest.mark.parametrize(("column", "value"), [("size", 2**50), ("offset", 2**60), ("check", "0" * 32)])
def test_an_index_that_lies_gives_no_bytes(tmp_path: Path, column: str, value: object) -> None:
    tar = write(tmp_path / "x.tar", GOOD)
    write_index(tar, changed(index_tar(tar).table, column, value))
    samples = write_sample_map(tmp_path / "map", [ShardFile(str(tar), tmp_path / "x.index.parquet")])
    with pytest.raises(DamagedSample, match=r"x\.tar: a\.jpg"):
        SampleReader(samples).read(0)


@pytest.mark.parametrize(
    ("column", "value"),
    [("offset", -512), ("check", "00"), ("check", "zz" * 16), *((name, None) for name in ("digest", "offset", "key"))],
)
def test_an_index_that_states_the_impossible_is_refused(tmp_path: Path, column: str, value: object) -> None:
    tar = write(tmp_path / "x.tar", GOOD)
    write_index(tar, changed(index_tar(tar).table, column, value))
    with pytest.raises(FatalError, match="index"):
        write_sample_map(tmp_path / "map", [ShardFile(str(tar), tmp_path / "x.index.parquet")])


@pytest.mark.parametrize("data", [b"", b"PAR1", table_bytes(pa.table({"key": [1]}))])
def test_a_file_that_is_no_index_is_told(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.index.parquet"
    path.write_bytes(data)
    with pytest.raises(FatalError, match="not an index"):
        read_index_file(path)


def test_damage_of_an_index_is_told(tmp_path: Path) -> None:
    """Text that is not UTF-8, and columns that end early, are found where the values are looked at."""
    tar = write(tmp_path / "x.tar", GOOD)
    index = index_tar(tar).table
    at = index.schema.get_field_index("key")
    raw = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff")])
    path = write_index(tar, index.set_column(at, "key", raw))
    with pytest.raises(FatalError, match=r"not an index of a shard.*UTF8"):
        read_index_file(path)
    data = bytearray(table_bytes(index))
    data[4:40] = bytes(36)
    path.write_bytes(data)
    with pytest.raises(FatalError, match="not an index of a shard"):
        read_index_file(path)


def test_a_missing_or_unreadable_index_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.index.parquet"
    with pytest.raises(FatalError, match=r"x\.index\.parquet: no such file"):
        read_index_file(path)
    path.touch()

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(storage.shards.index, "read_table", refuse)
    with pytest.raises(FatalError, match=r"not allowed while reading .*x\.index\.parquet"):
        read_index_file(path)


@pytest.mark.parametrize("column", ["dataset", "extension"])
def test_more_names_than_a_map_can_number_are_refused(tmp_path: Path, column: str) -> None:
    count = 2**15 + 1
    row = {"shard": "x.tar", "extension": "jpg", "offset": 0, "size": 0, "digest": "0" * 64, "check": "0" * 32}
    rows = [{**row, "key": f"{number:06d}", column: f"n{number}"} for number in range(count)]
    index = pa.Table.from_pylist(rows, schema=SHARD_MEMBERS)
    tar = tmp_path / "x.tar"
    write_index(tar, index)
    with pytest.raises(FatalError, match=f"more than {2**15} (datasets|extensions)"):
        write_sample_map(tmp_path / "map", [ShardFile(str(tar), tmp_path / "x.index.parquet")])


@pytest.mark.parametrize("tar", ["pipe:touch ran", "|touch ran", "-"])
def test_a_command_is_never_a_tar(tmp_path: Path, tar: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    real = write(tmp_path / "x.tar", GOOD)
    index = write_index(real, index_tar(real).table)
    samples = write_sample_map(tmp_path / "map", [ShardFile(tar, index, name="x.tar")])
    with pytest.raises(FatalError, match="never a command"):
        SampleReader(samples)
    assert not (tmp_path / "ran").exists()
