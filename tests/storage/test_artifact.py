"""Tables are compared with their manifest; those of older versions are upgraded to today's columns where declared."""

import errno
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from toy_store import commit, put

from storage.artifact import Artifact, require_schemas
from storage.errors import FatalError
from storage.keys import KeyTerms
from storage.local_store import LocalStore
from storage.manifest import Counts, FileEntry, Manifest
from storage.tables import (
    ADDED,
    CAPTIONS,
    REJECTED,
    RELATIONS,
    SCHEMAS,
    is_current,
    read_table,
    table_bytes,
    upgrade,
    write_table,
)

IMAGES = pa.table({"image_id": [1, 2]})


def _manifest(stage: str, **rows: int | None) -> Manifest:
    """A manifest of files (`a__b`: a.b) with that many rows each."""
    files = {name.replace("__", "."): FileEntry(digest="0" * 64, size=1, rows=count) for name, count in rows.items()}
    return Manifest(
        stage=stage, key="0" * 64, terms={}, upstream={}, files=files, counts=Counts(), schema_fingerprint="",
        seconds=0, host="", versions={},
    )  # fmt: skip


def test_a_file_that_the_manifest_does_not_name_is_missing(tmp_path):
    artifact = put(LocalStore(tmp_path), "caption")
    with pytest.raises(FileNotFoundError, match=rf"^caption {artifact.key[:12]} has no other\.parquet$"):
        artifact.table("other")


@pytest.mark.parametrize("data, of_table, of_artifact", [
    (None, "gone", "gone"), (b"PAR1 torn PAR1", ".*arquet.*", "bytes do not match the digest"),
])  # fmt: skip
def test_a_file_that_is_gone_or_torn_is_damage(tmp_path, data, of_table, of_artifact):
    artifact = put(LocalStore(tmp_path), "caption")
    artifact.require_whole()
    path = artifact.file("captions.parquet")
    path.unlink() if data is None else path.write_bytes(data)
    for read, what in ((lambda: artifact.table("captions"), of_table), (artifact.require_whole, of_artifact)):
        with pytest.raises(FatalError, match=rf"^{path}: damaged \({what}\); remove its artifact with `rlip store"):
            read()


def test_a_failing_disk_is_no_damage(tmp_path, monkeypatch):
    artifact = put(LocalStore(tmp_path), "caption")
    monkeypatch.setattr("storage.artifact.read_table", Mock(side_effect=OSError(errno.EIO, "no")))
    with pytest.raises(OSError, match="no") as caught:
        artifact.table("captions")
    assert caught.value.errno == errno.EIO


def test_an_error_without_a_text_is_named_by_its_class(tmp_path, monkeypatch):
    artifact = put(LocalStore(tmp_path), "caption")
    monkeypatch.setattr("storage.artifact.read_table", Mock(side_effect=pa.ArrowInvalid("")))
    with pytest.raises(FatalError, match=r"damaged \(ArrowInvalid\(''\)\)"):
        artifact.table("captions")


def test_a_table_is_written_in_one_form(tmp_path):
    table = pa.table({"text": [f"a man rides horse {n % 97}" for n in range(5000)]})
    expected = tmp_path / "expected.parquet"
    pq.write_table(table, expected, compression="zstd", compression_level=3, write_statistics=False, store_schema=False)
    assert table_bytes(table) == expected.read_bytes()


def test_a_table_is_read_as_the_one_that_was_asked_for(tmp_path):
    write_table(pa.table({"image_id": pa.array([1], pa.int32())}), tmp_path / "toys.parquet")
    assert read_table(tmp_path / "toys.parquet").schema.types == [pa.int32()]
    wanted = pa.schema({"image_id": pa.int64()})
    assert read_table(tmp_path / "toys.parquet", wanted).schema == wanted
    with pytest.raises(ValueError, match="field names"):
        read_table(tmp_path / "toys.parquet", pa.schema({"other": pa.int64()}))


def test_tables_that_fit_are_accepted(tmp_path):
    write_table(IMAGES, tmp_path / "toys.parquet")
    write_table(REJECTED.empty_table(), tmp_path / "rejected.parquet")
    require_schemas(_manifest("toy", toys__parquet=2, rejected__parquet=0, weights__bin=None), tmp_path)
    require_schemas(_manifest("toy", toys__parquet=None), tmp_path)


MOODS = IMAGES.append_column("mood", pa.array(["a", "b"]))


@pytest.mark.parametrize("stage, name, data, rows, said", [
    ("toy", "toys.more", table_bytes(IMAGES), 3000, r"toys\.more\.parquet has 2 rows, and its manifest says 3,000$"),
    ("toy", "toys", b"PAR1 no table PAR1", 2, r"toys\.parquet is not a table \(.*arquet"),
    ("toy", "rejected", table_bytes(IMAGES), 2, r"rejected\.parquet does not have the columns of quarantined rows$"),
    ("caption", "captions", table_bytes(MOODS), 2, r"captions\.parquet: column captions\.mood is from another version"),
    ("evaluate", "detections", table_bytes(MOODS), 2, r"detections\.parquet: column detections\.mood is from another"),
])  # fmt: skip
def test_a_table_that_does_not_fit_is_named(tmp_path, stage, name, data, rows, said):
    (tmp_path / f"{name}.parquet").write_bytes(data)
    with pytest.raises(FatalError, match=f"^{said}"):
        require_schemas(_manifest(stage, weights__bin=None, **{f"{name}.parquet": rows}), tmp_path)


FIRST: dict[str, list[tuple[str, pa.DataType]]] = {
    "captions": [
        ("text", pa.string()), ("draw", pa.int32()), ("seed", pa.int64()), ("log_probability", pa.float32()),
        ("source", pa.string()),
    ],
    "relations": [
        ("subject", pa.int32()), ("object", pa.int32()), ("predicate", pa.string()), ("score", pa.float32()),
        ("proposed", pa.bool_()), ("triplet", pa.int32()),
    ],
}  # fmt: skip
"""The items of two tables as the first version wrote them."""
ROWS: dict[str, list[dict[str, Any]]] = {
    "captions": [
        {"text": "a man", "draw": 0, "seed": 1, "log_probability": -2.0, "source": "blip"},
        {"text": "a dog", "draw": 1, "seed": 2, "log_probability": None, "source": "blip"},
    ],
    "relations": [{"subject": 0, "object": 1, "predicate": "ride", "score": 0.5, "proposed": True, "triplet": 0}],
}


def _old(tmp_path: Path, stage: str, name: str, extra: list[tuple[str, pa.DataType]] | None = None) -> Artifact:
    """An artifact with a table of the first version: two images, one without items."""
    items = pa.list_(pa.struct([*FIRST[name], *(extra or [])]))
    rows = [{"image_id": 1, name: ROWS[name]}, {"image_id": 2, name: []}]
    data = table_bytes(pa.Table.from_pylist(rows, pa.schema([("image_id", pa.int64()), (name, items)])))
    return commit(LocalStore(tmp_path), KeyTerms(stage, 1, {}, {}), f"{name}.parquet", data)


def test_an_older_table_is_read_with_todays_columns(tmp_path):
    captions = _old(tmp_path, "caption", "captions").table("captions")
    assert captions.schema == CAPTIONS
    assert captions.to_pylist() == [
        {"image_id": 1, "captions": [{**row, "match": None, "times": 1, "boxes": None} for row in ROWS["captions"]]},
        {"image_id": 2, "captions": []},
    ]
    relations = _old(tmp_path, "tag", "relations").table("relations")
    assert relations.schema == RELATIONS
    added = {"caption": -1} | dict.fromkeys(
        ["calibrated", "posterior", "probability", "tagger_part", "prior_part", "posterior_part", "captions_part"]
    )
    assert relations.to_pylist()[0] == {
        "image_id": 1, "tagger": None, "relations": [{**ROWS["relations"][0], **added}],
    }  # fmt: skip


def test_missing_lists_and_missing_items_stay_missing():
    """In rows of the first version, too."""
    items = pa.list_(pa.struct(FIRST["captions"]))
    rows = [{"image_id": 1, "captions": None}, {"image_id": 2, "captions": [None, ROWS["captions"][0]]}]
    old = pa.Table.from_pylist(rows, pa.schema([("image_id", pa.int64()), ("captions", items)]))
    new = upgrade(old, "caption", "captions", "here")
    assert new.schema == CAPTIONS
    assert new.to_pylist() == [
        rows[0],
        {"image_id": 2, "captions": [None, {**ROWS["captions"][0], "match": None, "times": 1, "boxes": None}]},
    ]


@pytest.mark.parametrize("columns, said", [
    ({"image_id": pa.string()}, "column captions.image_id is string, but this version reads int64"),
    ({"captions": pa.string()}, "column captions.captions is string, but this version reads list<"),
    ({"captions": pa.list_(pa.string())}, "column captions.captions is string, but this version reads struct<"),
    ({"image_id": pa.struct([("a", pa.int64())])}, "column captions.image_id is struct<a: int64>, but this version"),
    ({"image_id": pa.list_(pa.int64())}, "column captions.image_id is list<item: int64>, but this version reads int64"),
])  # fmt: skip
def test_columns_of_another_kind_are_named_with_what_rebuilds_them(columns, said):
    fields = {"image_id": pa.int64(), "captions": pa.list_(pa.struct(FIRST["captions"])), **columns}
    with pytest.raises(FatalError) as caught:
        upgrade(pa.schema(fields).empty_table(), "caption", "captions", "here")
    assert str(caught.value).startswith(f"here: {said}")
    assert str(caught.value).endswith("; run its recipe again (`rlip run`): stage caption recomputes the table")


def test_what_is_not_declared_is_refused_with_what_rebuilds_it(tmp_path, monkeypatch):
    newer = _old(tmp_path / "newer", "caption", "captions", [("mood", pa.string())])
    with pytest.raises(
        FatalError,
        match=r"caption \w{12}: column captions\.captions\.mood is.*; upgrade rlip or run .*: stage caption recom",
    ):
        newer.table("captions")
    monkeypatch.setattr("storage.tables.ADDED", {})
    with pytest.raises(
        FatalError, match=r"older version, without column captions\.captions\.match; run .*: stage caption recom"
    ):
        _old(tmp_path, "caption", "captions").table("captions")


def test_the_index_of_one_tar_is_read_as_that_of_many_also_without_rows():
    old = pa.table(
        {"image_id": [1, 1], "member": ["set-1.jpg", "set-1.tags.json"], "offset": [512, 2048], "size": [9, 7]}
    )
    rows = upgrade(old, "shard", "shards", "here").select(["shard", "key", "extension", "offset", "size", "digest"])
    assert rows.to_pylist() == [
        {"shard": "shard.tar", "key": "set-1", "extension": "jpg", "offset": 512, "size": 9, "digest": None},
        {"shard": "shard.tar", "key": "set-1", "extension": "tags.json", "offset": 2048, "size": 7, "digest": None},
    ]
    assert upgrade(old.slice(0, 0), "shard", "shards", "here").schema == SCHEMAS["shard", "shards"]


def test_a_table_of_today_whose_list_items_have_another_name_is_given_back_as_it_is():
    kinds = {field.name: field.type for field in CAPTIONS}
    named = pa.list_(pa.field("element", kinds["captions"].value_type))
    table = pa.schema({**kinds, "captions": named}).empty_table()
    assert table.schema.field("captions").type.value_field.name != CAPTIONS.field("captions").type.value_field.name
    assert upgrade(table, "caption", "captions", "here") is table and is_current(table.schema, "captions")
    for other in (pa.list_(pa.int64()), kinds["captions"].value_type, pa.string()):
        assert not is_current(pa.schema({**kinds, "captions": other}), "captions")
    assert not is_current(pa.schema({"images": pa.int64()}), "captions") and is_current(pa.schema({}), "toys")


def test_every_declared_column_is_one_of_todays():
    """Rows without such a column are read too. An added column must be declared, or older tables are refused."""
    names = {path for (_, table), schema in SCHEMAS.items() for path in _paths(table, pa.struct(list(schema)))}
    assert set(ADDED) <= names
    for (stage, table), schema in SCHEMAS.items():
        old = pa.schema([_without(field, table) for field in schema if f"{table}.{field.name}" not in ADDED])
        assert upgrade(old.empty_table(), stage, table, "x").schema == schema


def _paths(path: str, kind: pa.DataType) -> set[str]:
    if pa.types.is_list(kind):
        return _paths(path, kind.value_type)
    if pa.types.is_struct(kind):
        return {path}.union(*(_paths(f"{path}.{field.name}", field.type) for field in kind))
    return {path}


def _without(field: pa.Field, path: str) -> pa.Field:
    """A column without the fields that were added later."""
    kind = field.type
    if pa.types.is_list(kind) and pa.types.is_struct(kind.value_type):
        kept = [f for f in kind.value_type if f"{path}.{field.name}.{f.name}" not in ADDED]
        return pa.field(field.name, pa.list_(pa.struct(kept)))
    return field
