"""`rlip shards` as users see it: on tars of this project, of others, and on what is no tar."""

import bz2
import gzip
import io
import json
import lzma
import os
import tarfile
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import rlip_command
from PIL import Image

from pipeline.cli.shards import describe_shards, index_shards, list_shards, verify_shards
from pipeline.interop.shard_samples import read_labels
from pipeline.training.sample import SampleBox, SampleRelation, TrainingSample
from storage.errors import FatalError
from storage.shards.index import index_path, index_tar, read_index
from storage.shards.writer import Sample, write_shards
from storage.tables import write_table
from tests.data.toy_sets import encoded

SIDE = 200
rlip = partial(rlip_command.rlip, "shards")


def image(form: str = "JPEG") -> bytes:
    return encoded(Image.new("RGB", (SIDE, SIDE), (200, 200, 200)), form)


def foreign(path: Path, *entries: tuple[str, bytes]) -> Path:
    """A tar of another program."""
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for name, data in entries:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture
def tar(tmp_path: Path) -> Path:
    """Three samples of this project, the last without relations."""
    boxes = (SampleBox("person", 10, 10, 60, 120), SampleBox("horse\x1b[2J", 100, 60, 90, 90))
    ride = (SampleRelation(0, 1, "ride", 0.9, "riding"), SampleRelation(1, 0, "near", 0.5, "near"))
    samples = []
    for image_id, relations, form in ((1, ride, "JPEG"), (2, ride[:1], "PNG"), (3, (), "JPEG")):
        labels = TrainingSample(image_id, "toys", SIDE, SIDE, boxes, relations)
        members = {form.lower().replace("jpeg", "jpg"): image(form), "json": labels.to_json()}
        samples.append(Sample("toys", image_id, members, SIDE, SIDE))
    write_shards(tmp_path, samples, 2**30)
    return tmp_path / "shard-000.tar"


def test_a_tar_is_indexed_listed_and_verified(tar):
    done = rlip("index", tar)
    assert done.exit_code == 0
    assert done.stdout == f"{index_path(tar)}: 3 samples, 6 members\n"
    assert read_index(tar)["key"].to_pylist()[::2] == [f"toys-{n:012d}" for n in (1, 2, 3)]
    verified = rlip("verify", tar)
    assert (verified.exit_code, verified.stdout) == (0, "3 samples in 1 tar match\n")


def test_the_index_of_an_artifact_serves_its_tars(tar, tmp_path):
    assert "has no index" in rlip("verify", tar).stdout
    index, other = index_tar(tar).table, foreign(tmp_path / "shard-001.tar", ("x.jpg", image()))
    write_table(pa.concat_tables([index, index_tar(other).table]), tmp_path / "shards.parquet")
    verified = rlip("verify", tar, other)
    assert (verified.exit_code, verified.stdout) == (0, "4 samples in 2 tars match\n")
    listed, counted = rlip("ls", tar), rlip("info", tar, "--json")
    # The headers of the second sample are lost, behind which nothing else would be found.
    start = index["offset"][2].as_py()
    with tar.open("r+b") as file:
        file.seek(start - 512)
        file.write(b"\xff" * 512)
    assert (rlip("ls", tar).exit_code, rlip("ls", tar).stdout) == (0, listed.stdout)
    assert rlip("info", tar, "--json").stdout == counted.stdout
    assert rlip("verify", tar).exit_code == 1
    os.truncate(tar, start)
    done = rlip("ls", tar)
    assert done.exit_code == 1 and "extends beyond the tar" in done.stderr
    assert listed.stdout.startswith(done.stdout)


def test_samples_are_listed_without_an_index(tar):
    lines = rlip("ls", tar).stdout.splitlines()
    assert [line.split()[0] for line in lines] == [f"toys-{n:012d}" for n in (1, 2, 3)]
    assert "png" in lines[1] and "json" in lines[1]
    rows = [json.loads(line) for line in rlip("ls", tar, "--json").stdout.splitlines()]
    data = tar.read_bytes()
    first = {m["extension"]: data[m["offset"] : m["offset"] + m["size"]] for m in rows[0]["members"]}
    assert first["jpg"] == image()


def test_what_a_tar_holds_is_counted(tar, tmp_path):
    other = foreign(tmp_path / "other.tar", ("x.jpg", image()), ("x.cls", b"3"), ("y.jpg", b"%PDF-1.7"))
    done = rlip("info", tar, other)
    assert done.exit_code == 0
    assert "labels: 6 boxes, 3 relations in 3 samples" in done.stdout
    assert "predicates: ride 2, near 1" in done.stdout
    assert "\x1b" not in done.stdout
    values = json.loads(rlip("info", tar, other, "--json").stdout)
    ours, theirs = values["tars"]
    assert ours["formats"] == {"JPEG": 2, "PNG": 1} and ours["extensions"] == {"json": 3, "jpg": 2, "png": 1}
    assert theirs["formats"] == {"JPEG": 1, "not usable: format not allowed": 1} and theirs["labels"] == 0
    assert values["total"]["samples"] == 5 and values["total"]["predicates"] == {"ride": 2, "near": 1}


def test_samples_without_a_partner_are_counted(tmp_path):
    labels = TrainingSample(1, "toys", SIDE, SIDE, (SampleBox("person", 1, 1, 5, 5),), ()).to_json()
    tar = foreign(tmp_path / "x.tar", ("a.jpg", image()), ("a.json", labels), ("b.json", labels), ("c.jpg", image()))
    assert rlip("index", tar).exit_code == 0
    for command in ("info", "verify"):
        done = rlip(command, tar)
        assert done.exit_code == 0
        assert "1 sample lacks an image" in done.stdout and "1 sample lacks labels" in done.stdout
    gaps = json.loads(rlip("verify", tar, "--json").stdout)["gaps"]
    assert [each["gap"] for each in gaps] == ["1 sample lacks an image", "1 sample lacks labels"]


def test_refused_entries_are_named_and_the_others_indexed(tmp_path):
    tar = foreign(tmp_path / "x.tar", ("a.jpg", b"x"), ("../b.jpg", b"x"), ("c.pkl", b"x"))
    done = rlip("index", tar)
    assert done.exit_code == 0 and "1 sample, 1 member\n" in done.stdout
    assert "../b.jpg: has a name that leads out" in done.stderr and "c.pkl: is pickled" in done.stderr
    found = json.loads(rlip("index", tar, "--json").stdout)["tars"][0]
    assert [entry["name"] for entry in found["refused"]] == ["../b.jpg", "c.pkl"]
    assert not (tmp_path.parent / "b.jpg").exists()
    verified = rlip("verify", tar)
    assert (verified.exit_code, verified.stdout) == (0, "1 sample in 1 tar matches\n")
    assert f"{tar}: skipped c.pkl: is pickled" in verified.stderr
    values = json.loads(rlip("verify", tar, "--json").stdout)
    assert values["faults"] == [] and [entry["name"] for entry in values["left_out"]] == ["../b.jpg", "c.pkl"]
    listed = rlip("ls", tar, "--json")
    assert [json.loads(line)["key"] for line in listed.stdout.splitlines()] == ["a"]
    assert "c.pkl: is pickled" in listed.stderr


def test_a_damaged_tar_gets_no_index_unless_it_is_asked_for(tar):
    os.truncate(tar, 4000)
    done = rlip("index", tar)
    assert done.exit_code == 1 and done.stderr.startswith(f"Error: {tar}: ") and "--keep-damaged" in done.stderr
    assert not index_path(tar).exists()
    assert rlip("ls", tar).exit_code == rlip("info", tar).exit_code == 1
    kept = rlip("index", tar, "--keep-damaged")
    assert kept.exit_code == 0 and index_path(tar).exists()
    assert rlip("verify", tar).exit_code == 1


def test_verify_names_each_fault_and_goes_on_with_the_next_tar(tar, tmp_path):
    second = foreign(tmp_path / "second.tar", ("a.jpg", b"x"))
    third = foreign(tmp_path / "third.tar", ("b.jpg", b"x"))
    assert rlip("index", tar, second).exit_code == 0
    place = read_index(tar).to_pylist()[2]
    data = bytearray(tar.read_bytes())
    data[place["offset"] + place["size"] // 2] ^= 1
    tar.write_bytes(data)
    done = rlip("verify", tar, second, third)
    assert done.exit_code == 1
    assert f"{place['key']}.{place['extension']}: has different bytes than the index says" in done.stdout
    assert f"{third}: has no index" in done.stdout and f"rlip shards index {third}" in done.stdout
    assert str(second) not in done.stdout
    assert done.stderr.endswith("Error: 2 faults; restore the tars or, if they are right, index them again\n")
    values = json.loads(rlip("verify", tmp_path, "--json").stdout)
    assert values["tars"] == 2 and len(values["faults"]) == 2


def test_a_tar_named_twice_is_counted_once(tar, tmp_path, capsys):
    again = tmp_path / ".." / tmp_path.name / tar.name
    index_shards([tar, again, tar], [], keep_damaged=False, as_json=False)
    assert capsys.readouterr().out == f"{index_path(tar)}: 3 samples, 6 members\n"
    verify_shards([tar, tmp_path, again], as_json=False)
    assert capsys.readouterr().out == "3 samples in 1 tar match\n"
    list_shards([again, tar], as_json=False)
    assert capsys.readouterr().out.count("\n") == 3
    describe_shards([tar, again], as_json=True)
    assert json.loads(capsys.readouterr().out)["total"]["samples"] == 3
    link = tmp_path / "link.tar"
    link.symlink_to(tar)
    with pytest.raises(FatalError, match="1 fault; "):
        verify_shards([tar, link], as_json=False)
    assert f"{link}: has no index" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["ls", "info"])
def test_a_tar_that_cannot_be_used_does_not_stop_the_others(tar, tmp_path, command):
    (tmp_path / "empty.tar").touch()
    done = rlip(command, tmp_path / "empty.tar", tar, tmp_path / "none.tar")
    assert done.exit_code == 1
    assert "toys-000000000003" in done.stdout if command == "ls" else "3 samples" in done.stdout
    assert "empty.tar: is empty" in done.stderr and "none.tar: No such file" in done.stderr


def test_a_preview_shows_boxes_in_the_picture_and_lists_what_has_none(tar, tmp_path):
    out = tmp_path / "p.png"
    done = rlip("preview", tar, "--out", out, "--samples", "1")
    assert done.exit_code == 0, done.stderr
    pixels = np.asarray(Image.open(out).convert("RGB")).reshape(-1, 3)
    for colour in ((0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)):  # of the two boxes
        assert (pixels == colour).all(axis=1).sum() > 500
    mixed = foreign(tmp_path / "m.tar", ("t.txt", b"x"), ("bad.jpg", b"BM" + bytes(20)), ("a.jpg", image()))
    done = rlip("preview", mixed, "--out", out)
    assert done.exit_code == 0
    assert "t: no image; txt 1 B" in done.stdout and "bad: corrupt" in done.stdout and "1 sample drawn" in done.stdout
    texts = foreign(tmp_path / "t.tar", ("t.txt", b"x"))
    done = rlip("preview", texts, "--out", tmp_path / "none.png")
    assert done.exit_code == 1 and not (tmp_path / "none.png").exists()


@pytest.mark.parametrize("stated", [{}, {"confidence": None}])
def test_a_relation_without_a_confidence_is_as_sure_as_in_training(stated):
    box = {"category": "a", "x": 0, "y": 0, "w": 1, "h": 1}
    relation = {"subject": 0, "object": 1, "predicate": "on"} | stated
    seen = read_labels(json.dumps({"objects": [box, box], "relations": [relation]}).encode())
    assert seen is not None and seen.relations[0].confidence == 1.0


@pytest.mark.parametrize("labels", [
    b"[]",
    b"[" * 100_000,
    b'{"objects": [{"category": 1, "x": NaN, "y": 0, "w": 1, "h": 1}], "relations": []}',
    b'{"objects": [], "relations": [{"subject": 0, "object": -1, "predicate": "on"}]}',
    b'{"objects": [{"category": "a", "x": 1e308, "y": -1e308, "w": 1e308, "h": 1e308}], "relations": '
    b'[{"subject": 0, "object": 0, "predicate": "on", "new": 1}], "width": -3, "other": {}}',
])  # fmt: skip
def test_labels_of_any_content_are_no_error(tmp_path, labels):
    tar = foreign(tmp_path / "x.tar", ("a.jpg", image()), ("a.json", labels))
    assert rlip("info", tar).exit_code == 0
    assert rlip("preview", tar, "--out", tmp_path / "p.png").exit_code == 0


def packed(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("a.jpg", data)
    return buffer.getvalue()


def test_a_file_that_is_no_tar_is_reported_with_what_to_do(tmp_path):
    tar = tmp_path / "x.tar"
    for data, told in (
        (b"", "is empty (0 bytes)"),
        (b"no tar" * 100, "the tar is damaged"),
        (gzip.compress(bytes(10240)), "gunzip --keep"),
        (bz2.compress(bytes(10240)), "bunzip2 --keep"),
        (lzma.compress(bytes(10240)), "unxz --keep"),
        (packed(bytes(2**20)), "unzip"),
    ):
        tar.write_bytes(data)
        for command in ("index", "ls", "info", "verify", "preview") if b"no tar" not in data else ("ls",):
            done = rlip(command, tar, cwd=tmp_path)
            assert done.exit_code == 1
            assert told in done.stdout + done.stderr
        assert sorted(tmp_path.iterdir()) == [tar]


@pytest.mark.parametrize("command", ["index", "ls", "info", "preview"])
def test_paths_that_are_no_file_are_reported(tmp_path, command):
    os.mkfifo(tmp_path / "pipe.tar")
    for path, told in (
        (tmp_path / "none.tar", "No such file"),
        (tmp_path, "is a folder"),
        (tmp_path / "pipe.tar", "is a pipe or device"),
        (Path("pipe:echo x"), "No such file"),
    ):
        done = rlip(command, path, cwd=tmp_path)
        assert done.exit_code == 1 and told in done.stderr


def test_a_folder_without_tars_is_reported(tmp_path):
    done = rlip("verify", tmp_path)
    assert done.exit_code == 1 and "contains no .tar file" in done.stderr


def test_a_tar_without_samples_gets_no_index(tmp_path):
    for tar in (foreign(tmp_path / "empty.tar"), foreign(tmp_path / "pickles.tar", ("a.pkl", b"x"))):
        done = rlip("index", tar)
        assert done.exit_code == 1 and "contains no sample" in done.stderr
        assert not index_path(tar).exists()


def test_indexes_of_other_loaders_are_written_beside_all_tars(tar, tmp_path):
    (tmp_path / "more").mkdir()
    other = foreign(tmp_path / "more/x.tar", ("a.jpg", b"x"))
    done = rlip("index", tar, other, "--format", "wids", "--format", "energon")
    assert done.exit_code == 0, done.stderr
    shards = json.loads((tmp_path / "wids.json").read_text())["shardlist"]
    assert [(shard["url"], shard["nsamples"]) for shard in shards] == [("shard-000.tar", 3), ("more/x.tar", 1)]
    assert json.loads((tmp_path / ".nv-meta/.info.json").read_text())["shard_counts"] == {
        "shard-000.tar": 3,
        "more/x.tar": 1,
    }
    assert (tmp_path / "more/x.tar.idx").stat().st_size == 16
    again = rlip("index", tar, "--format", "energon")
    assert again.exit_code == 1 and ".nv-meta already exists" in again.stderr
    mixed = foreign(tmp_path / "more/y.tar", ("a.jpg", b"x"), ("a.pkl", b"x"))
    done = rlip("index", mixed, "--format", "wids")
    assert done.exit_code == 1 and "would also read" in done.stderr
    assert not (tmp_path / "more/wids.json").exists()
