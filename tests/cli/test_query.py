"""`rlip query`: SQL over the tables of a run and over nothing else."""

import json
import os
import signal
import sys
import threading
from contextlib import suppress
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from rlip_command import rlip
from run_builder import TWO_PEOPLE, RunBuilder, relations

from pipeline.cli.query import query, select
from pipeline.interop.import_file import ImportStep
from storage.artifact import Artifact
from storage.errors import FatalError
from storage.runs import Run
from storage.tables import CAPTIONS, IMAGE_CAPTIONS


def _rows(labelled: RunBuilder, sql: str) -> list[dict[str, Any]]:
    return [row for batch in select(labelled.run, sql)[1] for row in batch.to_pylist()]


def test_without_its_extra_the_command_names_it(labelled, monkeypatch):
    monkeypatch.setitem(sys.modules, "duckdb", None)
    done = rlip("query", "toy", "select 1", "--store", labelled.run.store.root)
    assert done.exit_code == 1 and done.stderr == "Error: this needs duckdb: pip install 'rlip[review]'\n"


def test_every_table_of_a_run_can_be_asked(labelled):
    sql = """
        select r.predicate, count(*) as times from (select unnest(relations) as r from relations)
        where r.score >= 0.5 group by 1 order by times desc, 1
    """
    assert _rows(labelled, sql) == [{"predicate": "next to", "times": 2}, {"predicate": "ride", "times": 2}]
    assert _rows(labelled, "select distinct partition from captions") == [{"partition": "toys/0000"}]
    assert _rows(labelled, "select reason from rejected") == [{"reason": "truncated"}]


def test_only_the_tables_that_a_query_names_are_read(labelled, monkeypatch):
    file, read = Artifact.file, set[str]()
    monkeypatch.setattr(Artifact, "file", lambda self, name: read.add(name) or file(self, name))
    assert _rows(labelled, 'select count(*) as n from "Images"')[0]["n"] > 0
    assert read == {"images.parquet"}
    for sql in ("show tables", "select table_name as name from information_schema.tables where table_name <> 'images'"):
        assert {"relations", "rejected"} < {row["name"] for row in _rows(labelled, sql)}


def test_tables_that_several_steps_write_bear_their_variants(labelled):
    for variant in ("pseudo", "none"):
        labelled.metrics(f"evaluate:{variant}", (0, "map", 0.5))
    sql = "select p.value - n.value as gain from scores_pseudo p join scores_none n using (name)"
    assert _rows(labelled, sql) == [{"gain": 0.0}]


def test_images_with_annotated_and_with_detected_boxes_are_one_table(book):
    book.add("ingest", "toys/0000", [book.image(1, TWO_PEOPLE)])
    book.add("ingest", "bare/0000", [book.image(2, [])])
    book.add("detect", "bare/0000", [book.image(2, TWO_PEOPLE[:1])])
    found = _rows(book, "select partition, len(boxes) as boxes from images order by 1")
    assert found == [{"partition": "bare/0000", "boxes": 1}, {"partition": "toys/0000", "boxes": 3}]


def test_a_table_has_the_columns_of_all_its_partitions(book):
    keys = {}
    for partition, schema, caption in (
        ("bare/0000", IMAGE_CAPTIONS, {"text": "a man rides a horse"}),
        ("toys/0000", CAPTIONS, {"text": "a dog", "boxes": [0]}),
    ):
        step = ImportStep(Run(book.run.store, partition[:4]), "caption", "captions", schema)
        step.put(partition, [{"image_id": 1, "captions": [caption]}], [])
        step.record()
        keys |= Run(book.run.store, partition[:4]).keys("caption")
    book.run.record("caption", "caption", keys)
    found = _rows(book, "select c.text, c.boxes from (select unnest(captions) as c from captions) order by 1")
    assert found == [{"text": "a dog", "boxes": [0]}, {"text": "a man rides a horse", "boxes": None}]


def test_json_has_numbers_and_null_for_what_is_none(labelled, capsys):
    sql = """select 'nan'::double as a, [1.5, '-inf'::double] as b, {'c': 'inf'::float} as d, date '2026-01-02' as e,
        sum(len(boxes)) as f, sum(len(boxes)) * 0.5 as g from images"""
    query(labelled.run.name, sql, store=labelled.run.store.root, as_json=True)
    parsed = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert parsed == [{"a": None, "b": [1.5, None], "d": {"c": None}, "e": "2026-01-02", "f": 6, "g": 3.0}]


def test_columns_of_one_name_are_told_apart(labelled):
    assert _rows(labelled, "select 1 as a, 2 as a, 3 as a_2") == [{"a": 1, "a_2": 2, "a_2_2": 3}]


def test_a_huge_answer_is_counted_but_not_held(labelled, capsys):
    sql = "select a.range as n, repeat('x', 500) as text from range(200000) a"
    pa.default_memory_pool().release_unused()
    before = pa.total_allocated_bytes()
    schema, batches = select(labelled.run, sql)
    most = max(pa.total_allocated_bytes() - before + batch.nbytes for batch in batches)
    assert schema.names == ["n", "text"] and most < 50e6, "the whole answer has 100 MB"
    query(labelled.run.name, sql, store=labelled.run.store.root, as_json=False)
    assert "first 100 of 200000 rows" in capsys.readouterr().out


@pytest.mark.parametrize(
    "sql", ["drop view images", "create view images as select 1", "create table t as select 1 as a"]
)
def test_what_a_query_makes_is_gone_with_it(labelled, sql):
    with suppress(FatalError):
        _rows(labelled, sql)
    assert _rows(labelled, "select count(*) as n from images")[0]["n"] > 0
    with pytest.raises(FatalError, match="Table with name t does not exist"):
        _rows(labelled, "select * from t")


ENDLESS = "select count(*) from range(100000000000) a where hash(a.range) % 7 = 3"


@pytest.mark.parametrize("endless", [ENDLESS, f"create table t as {ENDLESS}; select * from t"])
def test_a_query_can_be_stopped(labelled, endless):
    _rows(labelled, "select 1")  # loads DuckDB now, so that the timer below interrupts the query itself
    # Test runners may start processes that ignore Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            _rows(labelled, endless)
    finally:
        signal.signal(signal.SIGINT, before)


def test_damaged_tables_are_named_with_the_remedy(labelled):
    (artifact,) = labelled.run.artifacts("parse").values()
    artifact.file("triplets.parquet").write_bytes(b"torn")
    with pytest.raises(FatalError, match=r"triplets\.parquet.*tables of run"):
        _rows(labelled, "select * from triplets")


def test_a_wrong_query_names_the_tables(labelled):
    with pytest.raises(FatalError, match=r"candidates, captions, images, labels, rejected, relations, triplets"):
        _rows(labelled, "select * from tags")
    with pytest.raises(FatalError, match=r"is not a query; try e\.g\. 'select count"):
        _rows(labelled, "")


def test_labels_are_one_row_each_with_names_boxes_and_words(labelled):
    labelled.run.note("recipe", {"shard": {"threshold": 0.75}})
    found = _rows(labelled, "select * from labels order by score desc")
    assert len(found) == 5 and [row["kept"] for row in found] == [True, True, False, False, False]
    first = found[0]
    assert (first["subject_category"], first["predicate"], first["object_category"]) == ("person", "ride", "horse")
    assert (first["subject_x"], first["object_w"], first["caption"]) == (10.0, 60.0, "a man rides a horse")
    twice = "select count(*) as n from labels a join labels b using (image_id, subject_x, predicate, object_x)"
    assert _rows(labelled, twice)[0]["n"] >= 5


def test_of_labels_that_mean_the_same_the_best_is_kept(book):
    boxes = [("person", 10.0, 10.0, 40.0, 80.0), ("horse", 20.0, 50.0, 60.0, 60.0)]
    book.add("ingest", "toys/0000", [book.image(1, boxes)])
    book.add("tag", "toys/0000", [relations(1, (0, "riding", 1, 0.6), (0, "ride", 1, 0.9))], candidates=[])
    book.run.note("recipe", {"shard": {"threshold": 0.5}})
    kept = _rows(book, "select predicate, kept, round(confidence, 2) as confidence from labels order by score desc")
    assert [(row["predicate"], row["kept"]) for row in kept] == [("ride", True), ("ride", False)]
    assert kept[0]["confidence"] == pytest.approx(0.9) and kept[1]["confidence"] is None


@pytest.mark.parametrize("name", ["labels.csv", "labels.parquet"])
def test_an_answer_is_written_to_a_file(labelled, tmp_path, name):
    out = tmp_path / name
    sql = "select image_id, predicate, score, kept from labels"
    query(labelled.run.name, sql, store=labelled.run.store.root, as_json=False, out=out)
    read = pa.csv.read_csv(out) if out.suffix == ".csv" else pa.parquet.read_table(out)
    assert (len(read), read.column_names) == (5, ["image_id", "predicate", "score", "kept"])
    with pytest.raises(FatalError, match="already exists"):
        query(labelled.run.name, sql, store=labelled.run.store.root, as_json=False, out=out)


def test_a_file_that_cannot_hold_the_answer_is_one_message_and_no_file(labelled, tmp_path):
    for name, sql in (
        ("a.csv", "select relations from relations"),
        ("a.xls", "select 1"),
        ("b.csv", "select 1 where false"),
    ):
        with pytest.raises(FatalError, match="--out"):
            query(labelled.run.name, sql, store=labelled.run.store.root, as_json=False, out=tmp_path / name)
    assert not list(tmp_path.glob("*.[cx]*"))
