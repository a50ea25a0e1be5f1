"""Tar shards: equal bytes for equal samples, read by offset and other readers; of hostile tars nothing is believed."""

import errno
import io
import os
import pickle
import tarfile
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pytest
import webdataset
from faulty_disk import flip

import storage.shards.index
from storage.errors import FatalError
from storage.shards.index import compare, index_tar, read_index, read_index_file, write_index
from storage.shards.reader import DamagedSample, RangeCache, SampleReader
from storage.shards.sample_map import SampleMap, ShardFile, write_sample_map
from storage.shards.scan import MAX_GLOBALS, MAX_HEADER, MAX_NAME, Member, Refused, scan_tar
from storage.shards.writer import Sample, image_id_of, sample_key, write_shards
from storage.tables import SHARD_MEMBERS, read_table, table_bytes, write_table
from tests.hostile.tars import entry, negative, plain
from tests.storage.shard_files import made_map, made_samples, moved, write_sets


def test_equal_samples_give_equal_tars_below_the_largest_size_or_of_one_sample(tmp_path):
    for name in ("one", "two"):
        write_sets(tmp_path / name, {"a": 50}, max_bytes=30_720)
    tars = sorted(path.name for path in (tmp_path / "one/a").glob("*.tar"))
    assert len(tars) > 1
    for tar in tars:
        data = (tmp_path / "one/a" / tar).read_bytes()
        assert data == (tmp_path / "two/a" / tar).read_bytes() and len(data) <= 30_720
    samples = [Sample("a", number, {"jpg": b"x" * 50_000}, 1, 1) for number in range(2)]
    index = write_shards(tmp_path, samples, 20_480)
    assert index["shard"].to_pylist() == ["shard-000.tar", "shard-001.tar"]


def test_a_dot_in_a_data_set_is_no_extension_and_a_strange_name_is_refused():
    assert sample_key("coco.v2", 139) == "coco%2Ev2-000000000139"
    for name in ("a/b", "x" * 120, "a b", "ü"):
        with pytest.raises(FatalError, match="rename it"):
            sample_key(name, 1)


def test_tarfile_and_webdataset_read_the_same_samples(tmp_path):
    (shard,) = write_sets(tmp_path, {"a": 9})
    expected = {sample.key: dict(sample.members) for sample in made_samples("a", 9)}
    with tarfile.open(shard.tar) as tar:
        by_name = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    assert by_name == {f"{key}.{kind}": data for key, members in expected.items() for kind, data in members.items()}
    streamed = webdataset.WebDataset(shard.tar, shardshuffle=False)
    assert {s["__key__"]: {"jpg": s["jpg"], "json": s["json"]} for s in streamed} == expected


def test_an_index_made_from_the_tar_says_what_the_writer_said(tmp_path):
    (shard,) = write_sets(tmp_path, {"a": 9})
    told = read_table(shard.index)
    found = index_tar(Path(shard.tar))
    columns = ["shard", "key", "extension", "offset", "size", "digest"]
    assert not found.refused and found.table.select(columns) == told.select(columns)
    assert compare(Path(shard.tar), told).faults == ()
    write_index(Path(shard.tar), found.table)
    assert read_index(Path(shard.tar)) == found.table


def test_labels_are_read_without_the_image(tmp_path):
    samples = made_map(tmp_path, {"a": 5})
    tar = Path(samples.tars[0])
    image = next(member for member in samples.members(3) if member.extension == "jpg")
    flip(tar, image.offset)
    reader = SampleReader(samples)
    assert reader.read(3, ["json"]) == {"json": b"{3}"}
    with pytest.raises(DamagedSample, match=r"a-000000000003\.jpg: differs from its index"):
        reader.read(3)


def test_a_tar_cut_short_is_damaged_where_it_ends(tmp_path):
    samples = made_map(tmp_path, {"a": 5})
    tar = Path(samples.tars[0])
    tar.write_bytes(tar.read_bytes()[: samples.members(3)[0].offset + 10])
    reader = SampleReader(samples)
    assert reader.read(2)["json"] == b"{2}"
    for sample in (3, 4):
        with pytest.raises(DamagedSample, match="ends early"):
            reader.read(sample)
    with pytest.raises(FatalError, match="its index needs"):
        reader.require_tars()
    tar.unlink()
    with pytest.raises(FatalError, match="no such file"):
        SampleReader(samples).require_tars()


def test_few_files_are_open_at_a_time(tmp_path):
    sets = {f"s{number:02d}": 2 for number in range(40)}
    samples = made_map(tmp_path, sets)
    reader = SampleReader(samples, max_open=4)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for sample in range(len(samples)):
        assert reader.read(sample)["jpg"]
    assert len(samples.tars) == 40 and len(list(Path("/proc/self/fd").iterdir())) <= before + 4


def test_a_map_holds_all_samples_in_order_and_another_process_maps_the_same(tmp_path):
    samples = made_map(tmp_path, {"a": 30, "b": 12})
    again: SampleMap = pickle.loads(pickle.dumps(samples))
    assert [again.key(n) for n in range(42)] == [
        sample_key(name, n) for name, count in (("a", 30), ("b", 12)) for n in range(count)
    ]
    assert again.datasets == ["a", "b"] and again.sets.tolist() == [0] * 30 + [1] * 12
    assert set(again.widths.tolist()) == {64} and again.heights[:3].tolist() == [48, 49, 50]
    assert len(set(again.identities.tolist())) == 42


def test_the_fingerprint_of_a_map_is_that_of_its_samples_not_of_their_place(tmp_path):
    one, two = (made_map(tmp_path / name, {"a": 30}) for name in ("one", "two"))
    assert one.fingerprint == two.fingerprint
    other = write_sample_map(tmp_path / "three", write_sets(tmp_path / "s", {"a": 29}))
    assert other.fingerprint != one.fingerprint


def test_a_map_can_be_of_some_samples(tmp_path):
    shards = write_sets(tmp_path, {"a": 30})
    even = write_sample_map(tmp_path / "map", shards, lambda rows: np.array(rows["image_id"].to_numpy() % 2 == 0))
    assert [even.key(n) for n in range(len(even))] == [sample_key("a", n) for n in range(0, 30, 2)]
    assert SampleReader(even).read(3)["json"] == b"{6}"


def test_a_damaged_map_or_index_says_what_to_do(tmp_path):
    samples = made_map(tmp_path, {"a": 3})
    (samples.folder / "samples.bin").write_bytes(b"torn")
    with pytest.raises(FatalError, match=r"not a complete sample map.*remove the folder and run again"):
        SampleMap(samples.folder)
    shards = write_sets(tmp_path / "x", {"a": 3})
    shards[0].index.write_bytes(b"PAR1")
    with pytest.raises(FatalError, match="not a shard index"):
        write_sample_map(tmp_path / "again", shards)
    with pytest.raises(FatalError, match=r"has no index a\.index\.parquet"):
        read_index(tmp_path / "a.tar")


@pytest.mark.parametrize("file", ["samples.bin", "members.bin", "keys.bin", "map.json"])
def test_a_flipped_bit_in_a_map_is_found(file, tmp_path):
    samples = made_map(tmp_path, {"a": 3})
    samples.require_whole()
    path = samples.folder / file
    original = path.read_bytes()
    for bit in range(0, 8 * len(original), len(original)):
        path.write_bytes(original)
        flip(path, bit // 8, bit % 8)
        with pytest.raises(FatalError, match="remove the folder and run again"):
            SampleMap(samples.folder).require_whole()


def test_a_renamed_tar_or_one_given_twice_is_reported(tmp_path):
    (shard,) = write_sets(tmp_path, {"a": 3})
    renamed = ShardFile(shard.tar.replace("shard-000", "train-007"), shard.index)
    with pytest.raises(FatalError, match=r"is the index of shard-000\.tar, not of train-007\.tar; index .*train-007"):
        write_sample_map(tmp_path / "map", [renamed])
    with pytest.raises(FatalError, match=r"shard-000\.tar: listed twice"):
        write_sample_map(tmp_path / "map", [shard, shard])
    index = read_table(shard.index)
    at = index.schema.get_field_index("shard")
    other = index.set_column(at, index.schema.field(at), pa.array(["b.tar"] * len(index)))
    write_table(pa.concat_tables([index, other, index]), shard.index)
    with pytest.raises(FatalError, match=r"rows of one tar are not contiguous"):
        write_sample_map(tmp_path / "map", [shard])
    write_table(index.slice(0, 0), shard.index)
    assert len(write_sample_map(tmp_path / "map", [shard])) == 0


def test_remote_tars_are_read_in_ranges_and_kept_up_to_a_size(tmp_path):
    shards = write_sets(tmp_path, {"a": 40}, max_bytes=10**6)
    remote = moved(shards)
    samples = write_sample_map(tmp_path / "map", remote)
    cache = RangeCache(tmp_path / "cache", 20_000)
    expected = [SampleReader(write_sample_map(tmp_path / "local", shards)).read(n) for n in range(40)]
    assert [SampleReader(samples, cache).read(n) for n in range(40)] == expected
    held = sum(path.stat().st_size for path in (tmp_path / "cache").iterdir())
    assert 0 < held <= 20_000
    fsspec.filesystem("memory").rm(remote[0].tar)
    assert SampleReader(samples, cache).read(39) == expected[39]
    with pytest.raises(DamagedSample, match="a-000000000000"):
        SampleReader(samples).read(0)


def test_a_cache_of_many_processes_stays_near_its_limit(tmp_path):
    limit, size = 80_000, 400
    caches = [RangeCache(tmp_path / "cache", limit) for _ in range(8)]
    most = held = 0
    for number in range(100):
        for which, cache in enumerate(caches):
            cache.put(f"{number} {which}", bytes(size))
        held = sum(entry.stat().st_size for entry in os.scandir(tmp_path / "cache"))
        most = max(most, held)
    assert limit / 2 < held and most < 1.4 * limit


def test_a_cache_with_wrong_bytes_is_not_believed(tmp_path):
    samples = write_sample_map(tmp_path / "map", moved(write_sets(tmp_path, {"a": 4}, max_bytes=10**6)))
    cache = RangeCache(tmp_path / "cache", 10**6)
    whole = SampleReader(samples, cache).read(2)
    (kept,) = (tmp_path / "cache").iterdir()
    kept.write_bytes(b"?" * kept.stat().st_size)
    assert SampleReader(samples, cache).read(2) == whole


def test_a_tar_with_long_names_of_another_program_is_read(tmp_path):
    name = "folder/" + "x" * 150
    members = ((f"./{name}.{extension}", data) for extension, data in (("cls", b"7"), ("jpg", b"picture")))
    tar = write(tmp_path / "foreign.tar", *members, form=tarfile.PAX_FORMAT)
    write_index(tar, index_tar(tar).table)
    samples = write_sample_map(tmp_path / "map", [ShardFile(str(tar), tmp_path / "foreign.index.parquet")])
    assert samples.key(0) == name and SampleReader(samples).read(0) == {"cls": b"7", "jpg": b"picture"}


@pytest.mark.parametrize("image_id", [0, 2**62, -(2**63)])
def test_a_sample_of_any_image_id_is_written_and_read(tmp_path, image_id):
    assert image_id_of(sample_key("set-1.b", image_id), "set-1.b") == image_id
    write_table(write_shards(tmp_path, [Sample("a", image_id, {"jpg": b"x"}, 1, 1)], 10**6), tmp_path / "i.parquet")
    samples = write_sample_map(tmp_path / "map", [ShardFile(str(tmp_path / "shard-000.tar"), tmp_path / "i.parquet")])
    assert samples.key(0) == sample_key("a", image_id) and SampleReader(samples).read(0) == {"jpg": b"x"}


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


@pytest.mark.parametrize("header, reason", [
    (special(tarfile.SYMTYPE, link="/etc/passwd"), "link to '/etc/passwd'"),
    (special(tarfile.LNKTYPE, link="../a"), "link to '../a'"),
    (special(tarfile.FIFOTYPE), "device"),
    (special(tarfile.REGTYPE, name="/etc/cron.jpg"), "leads out of its folder"),
    (special(tarfile.REGTYPE, name="x/../../cron.jpg"), "leads out of its folder"),
    (special(tarfile.REGTYPE, name="b\x1b[2J.jpg"), "can't be printed"),
    (special(tarfile.REGTYPE, name="b.pkl.gz"), "pickled"),
    (special(tarfile.REGTYPE, name="b.PTH"), "pickled"),
])  # fmt: skip
def test_an_entry_that_could_do_harm_is_refused_by_name_and_the_others_stay(tmp_path, header, reason):
    tar = write(tmp_path / "x.tar", GOOD, prefix=header)
    [entry] = refused(tar)
    assert reason in entry.reason and entry.name and not entry.damaged
    assert members(tar) == ["a.jpg"]
    assert sorted(tmp_path.iterdir()) == [tar]


def test_an_entry_longer_than_its_tar_is_damage(tmp_path):
    tar = write(tmp_path / "x.tar", GOOD, ("b.jpg", b"1" * 5000), ("c.jpg", b""))
    os.truncate(tar, 4000)
    assert members(tar) == ["a.jpg"]
    [entry] = refused(tar)
    assert (entry.name, entry.damaged) == ("b.jpg", True)


def globals_of(count: int) -> bytes:
    """A global header of that many entries."""
    return tarfile.TarInfo.create_pax_global_header({f"k{number}": "v" for number in range(count)})


def test_a_long_global_header_is_not_applied_to_each_member(tmp_path):
    tar = write(tmp_path / "x.tar", GOOD, prefix=globals_of(6_000))
    [entry] = scan_tar(tar)
    assert isinstance(entry, Refused) and entry.damaged and "a global header of 6000 entries" in entry.reason
    tar = write(tmp_path / "x.tar", GOOD, prefix=b"".join(globals_of(count) for count in (10, 5, MAX_GLOBALS)))
    assert members(tar) == ["a.jpg"] and refused(tar) == []


def test_entries_without_bytes_do_not_add_up_to_a_long_header(tmp_path):
    """Between them nothing is skipped, so the headers are read as if they were one."""
    count = MAX_HEADER // 512 + 10
    assert len(members(write(tmp_path / "x.tar", *[(f"{number}.cls", b"") for number in range(count)]))) == count


def test_a_damaged_header_ends_the_listing(tmp_path):
    tar = write(tmp_path / "x.tar", GOOD, ("b.jpg", b"x"), ("c.jpg", b"x"))
    flip(tar, 1024 + 10)
    [entry] = refused(tar)
    assert entry.damaged and members(tar) == ["a.jpg"]
    os.truncate(tar, 1024 + 300)
    assert refused(tar) == [entry]
    os.truncate(tar, 1024)
    assert refused(tar) == [], "zeros need not mark the end"


def test_a_very_long_name_is_refused_at_once(tmp_path):
    tar = write(tmp_path / "x.tar", ("d/" * 100_000 + "x", b""), GOOD, form=tarfile.PAX_FORMAT)
    [entry] = refused(tar)
    assert str(MAX_NAME) in entry.reason
    assert members(tar) == ["a.jpg"]
    tar = write(tmp_path / "x.tar", ("d/" * MAX_HEADER, b""), GOOD, form=tarfile.PAX_FORMAT)
    [entry] = refused(tar)
    assert entry.damaged and "a header of" in entry.reason and members(tar) == []


def test_the_key_of_an_earlier_sample_is_refused(tmp_path):
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


@pytest.mark.parametrize("data", [b"", bytes(range(256)) * 16], ids=["empty", "bytes"])
def test_a_file_that_is_no_tar_has_no_members_and_says_so(tmp_path, data):
    tar = tmp_path / "x.tar"
    tar.write_bytes(data)
    [found] = scan_tar(tar)
    assert isinstance(found, Refused) and found.damaged
    assert list(scan_tar(write(tmp_path / "empty.tar"))) == [], "a tar without entries is no damage"


def test_hidden_files_which_macos_adds_are_in_no_sample(tmp_path):
    tar = write(tmp_path / "x.tar", ("d/._a.jpg", b""), ("d/a.jpg", b"x"), ("d/._b.jpg", b""), ("d/b.jpg", b"x"))
    assert members(tar) == ["d/a.jpg", "d/b.jpg"] and refused(tar) == []


def test_what_is_left_out_is_told_apart_from_faults(tmp_path):
    tar = write(tmp_path / "x.tar", GOOD, ("b.pkl", b"x"), prefix=special(tarfile.SYMTYPE, link="/etc/passwd"))
    compared = compare(tar, index_tar(tar).table)
    assert compared.faults == () and [entry.name for entry in compared.left_out] == ["evil.jpg", "b.pkl"]
    os.truncate(tar, 1026)
    assert compare(tar, index_tar(tar).table).faults == ("a.jpg: extends beyond the tar",)


def test_each_kind_of_change_is_found_against_the_index(tmp_path):
    entries = [("a.jpg", b"1111"), ("b.jpg", b"2222"), ("c.jpg", b"3333")]
    tar = write(tmp_path / "x.tar", *entries)
    index = index_tar(tar).table
    assert compare(tar, index).faults == ()
    write(tar, entries[0], ("b.jpg", b"2223"), ("d.jpg", b"4"))
    assert compare(tar, index).faults == (
        "b.jpg: has different bytes than the index says",
        "c.jpg: in the index, but not in the tar",
        "d.jpg: in the tar, but not in the index",
    )
    write(tar, entries[1], entries[0], entries[2])
    told = [fault.partition(": ")[2] for fault in compare(tar, index).faults]
    assert told == ["has a different place than the index says"] * 2
    os.truncate(tar, 1600)
    assert any("extends beyond the tar" in fault or "not in the tar" in fault for fault in compare(tar, index).faults)


def test_a_member_of_size_minus_1_is_damage_for_the_tar_and_for_its_index(tmp_path):
    tar = tmp_path / "x.tar"
    tar.write_bytes(plain("a.jpg", b"pixels") + entry("b.jpg", size=negative(-1)) + bytes(10240))
    [found] = refused(tar)
    assert members(tar) == ["a.jpg"] and found.damaged
    index = index_tar(tar).table
    assert compare(tar, index).faults == ("x.tar: the tar is damaged: a header can't be read",)
    with pytest.raises(FatalError, match="a row with a negative size"):
        read_index_file(write_index(tar, changed(index, "size", -1)))


def test_rows_that_repeat_do_not_match(tmp_path):
    tar = write(tmp_path / "x.tar", GOOD)
    index = index_tar(tar).table
    assert compare(tar, pa.concat_tables([index] * 50_000)).faults == (
        "x.tar: 49,999 rows of the index repeat a member",
    )


def changed(index: pa.Table, column: str, value: object) -> pa.Table:
    at = index.schema.get_field_index(column)
    return index.set_column(at, index.schema.field(at), pa.array([value] * len(index), index.schema.field(at).type))


@pytest.mark.parametrize(("column", "value"), [("offset", 2**60), ("check", "0" * 32)])
def test_an_index_that_lies_gives_no_bytes(tmp_path, column, value):
    tar = write(tmp_path / "x.tar", GOOD)
    write_index(tar, changed(index_tar(tar).table, column, value))
    samples = write_sample_map(tmp_path / "map", [ShardFile(str(tar), tmp_path / "x.index.parquet")])
    with pytest.raises(DamagedSample, match=r"x\.tar: a\.jpg"):
        SampleReader(samples).read(0)


@pytest.mark.parametrize(("column", "value"), [("offset", -512), ("check", "00"), ("check", "zz" * 16), ("key", None)])
def test_an_index_that_states_the_impossible_is_refused(tmp_path, column, value):
    tar = write(tmp_path / "x.tar", GOOD)
    write_index(tar, changed(index_tar(tar).table, column, value))
    with pytest.raises(FatalError, match="index"):
        write_sample_map(tmp_path / "map", [ShardFile(str(tar), tmp_path / "x.index.parquet")])


def test_a_file_that_is_no_index_is_reported_and_a_missing_or_unreadable_one_is_no_damage(tmp_path, monkeypatch):
    """Text that is not UTF-8, and columns that end early, are found where the values are looked at."""
    tar, path = write(tmp_path / "x.tar", GOOD), tmp_path / "x.index.parquet"
    with pytest.raises(FatalError, match=r"x\.index\.parquet: no such file"):
        read_index_file(path)
    index = index_tar(tar).table
    raw = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff")])
    no_text = table_bytes(index.set_column(index.schema.get_field_index("key"), "key", raw))
    early = bytearray(table_bytes(index))
    early[4:40] = bytes(36)
    for data, said in (
        (b"", ""), (b"PAR1", ""), (table_bytes(pa.table({"key": [1]})), ""), (no_text, ".*UTF8"), (early, ""),
    ):  # fmt: skip
        path.write_bytes(data)
        with pytest.raises(FatalError, match=f"not a shard index{said}"):
            read_index_file(path)

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(storage.shards.index, "read_table", refuse)
    with pytest.raises(FatalError, match=r"permission denied while reading .*x\.index\.parquet"):
        read_index_file(path)


@pytest.mark.parametrize("column", ["dataset", "extension"])
def test_more_names_than_a_map_can_number_are_refused(tmp_path, column):
    count = 2**15 + 1
    row = {"shard": "x.tar", "extension": "jpg", "offset": 0, "size": 0, "digest": "0" * 64, "check": "0" * 32}
    rows = [{**row, "key": f"{number:06d}", column: f"n{number}"} for number in range(count)]
    index = pa.Table.from_pylist(rows, schema=SHARD_MEMBERS)
    tar = tmp_path / "x.tar"
    write_index(tar, index)
    with pytest.raises(FatalError, match=f"more than {2**15} (datasets|extensions)"):
        write_sample_map(tmp_path / "map", [ShardFile(str(tar), tmp_path / "x.index.parquet")])


@pytest.mark.parametrize("tar", ["pipe:touch ran", "|touch ran"])
def test_a_command_is_never_a_tar(tmp_path, tar, monkeypatch):
    monkeypatch.chdir(tmp_path)
    real = write(tmp_path / "x.tar", GOOD)
    index = write_index(real, index_tar(real).table)
    samples = write_sample_map(tmp_path / "map", [ShardFile(tar, index, name="x.tar")])
    with pytest.raises(FatalError, match="never a command"):
        SampleReader(samples)
    assert not (tmp_path / "ran").exists()
