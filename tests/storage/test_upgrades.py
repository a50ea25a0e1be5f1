"""Tables of older versions are read with today's columns where that is declared, and refused with the remedy elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from storage.artifact import Artifact
from storage.digests import digest_file
from storage.errors import FatalError
from storage.keys import KeyTerms
from storage.local_store import LocalStore
from storage.manifest import Counts, FileEntry, Manifest
from storage.tables import ADDED, CAPTIONS, RELATIONS, SCHEMAS, is_current, upgrade, write_table

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
    store, terms = LocalStore(tmp_path), KeyTerms(stage, 1, {}, {})
    with store.draft() as draft:
        path = draft / f"{name}.parquet"
        write_table(pa.Table.from_pylist(rows, pa.schema([("image_id", pa.int64()), (name, items)])), path)
        entry = FileEntry(digest=digest_file(path), size=path.stat().st_size)
        manifest = Manifest(
            stage=stage, key=terms.key, terms=terms.as_json(), upstream={}, files={path.name: entry}, counts=Counts(),
            schema_fingerprint="", seconds=0, host="", versions={},
        )  # fmt: skip
        return store.commit(draft, manifest)


def test_an_older_table_is_read_with_todays_columns(tmp_path: Path) -> None:
    captions = _old(tmp_path, "caption", "captions").table("captions")
    assert captions.schema == CAPTIONS
    assert captions.to_pylist() == [
        {"image_id": 1, "captions": [{**row, "match": None, "times": 1} for row in ROWS["captions"]]},
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


def test_missing_lists_and_missing_items_stay_missing() -> None:
    """In rows of the first version, too."""
    items = pa.list_(pa.struct(FIRST["captions"]))
    rows = [{"image_id": 1, "captions": None}, {"image_id": 2, "captions": [None, ROWS["captions"][0]]}]
    old = pa.Table.from_pylist(rows, pa.schema([("image_id", pa.int64()), ("captions", items)]))
    new = upgrade(old, "caption", "captions", "here")
    assert new.schema == CAPTIONS
    assert new.to_pylist() == [
        rows[0],
        {"image_id": 2, "captions": [None, {**ROWS["captions"][0], "match": None, "times": 1}]},
    ]


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"image_id": pa.string()}, "column captions.image_id is string, but this version reads int64"),
        ({"captions": pa.string()}, "column captions.captions is string, but this version reads list<"),
        ({"captions": pa.list_(pa.string())}, "column captions.captions is string, but this version reads struct<"),
        (
            {"image_id": pa.struct([("a", pa.int64())])},
            "column captions.image_id is struct<a: int64>, but this version reads int64",
        ),
        (
            {"image_id": pa.list_(pa.int64())},
            "column captions.image_id is list<item: int64>, but this version reads int64",
        ),
    ],
)
def test_columns_of_another_kind_are_named_with_what_rebuilds_them(columns: dict[str, pa.DataType], said: str) -> None:
    fields = {"image_id": pa.int64(), "captions": pa.list_(pa.struct(FIRST["captions"])), **columns}
    with pytest.raises(FatalError) as caught:
        upgrade(pa.schema(fields).empty_table(), "caption", "captions", "here")
    assert str(caught.value).startswith(f"here: {said}")
    assert str(caught.value).endswith("; run its recipe again (`rlip run`): stage caption recomputes the table")


def test_what_is_not_declared_is_refused_with_what_rebuilds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_the_index_of_one_tar_is_read_as_that_of_many() -> None:
    old = pa.table(
        {"image_id": [1, 1], "member": ["set-1.jpg", "set-1.tags.json"], "offset": [512, 2048], "size": [9, 7]}
    )
    rows = upgrade(old, "shard", "shards", "here").select(["shard", "key", "extension", "offset", "size", "digest"])
    assert rows.to_pylist() == [
        {"shard": "shard.tar", "key": "set-1", "extension": "jpg", "offset": 512, "size": 9, "digest": None},
        {"shard": "shard.tar", "key": "set-1", "extension": "tags.json", "offset": 2048, "size": 7, "digest": None},
    ]


def test_an_index_without_rows_is_read_too() -> None:
    columns = {"image_id": pa.int64(), "member": pa.string(), "offset": pa.int64(), "size": pa.int64()}
    assert upgrade(pa.schema(columns).empty_table(), "shard", "shards", "here").schema == SCHEMAS["shard", "shards"]


def test_a_table_of_today_whose_list_items_have_another_name_is_given_back_as_it_is() -> None:
    kinds = {field.name: field.type for field in CAPTIONS}
    named = pa.list_(pa.field("element", kinds["captions"].value_type))
    table = pa.schema({**kinds, "captions": named}).empty_table()
    assert table.schema.field("captions").type.value_field.name != CAPTIONS.field("captions").type.value_field.name
    assert upgrade(table, "caption", "captions", "here") is table and is_current(table.schema, "captions")
    for other in (pa.list_(pa.int64()), kinds["captions"].value_type, pa.string()):
        assert not is_current(pa.schema({**kinds, "captions": other}), "captions")
    assert not is_current(pa.schema({"images": pa.int64()}), "captions") and is_current(pa.schema({}), "toys")


def test_every_declared_column_is_one_of_todays() -> None:
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
