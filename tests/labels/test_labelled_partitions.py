"""Held artifacts read each table once, and labels show only the captions and triplets that they were made from."""

from typing import Any
from uuid import uuid4

import fsspec
import pyarrow as pa
from run_builder import TWO_PEOPLE, RunBuilder, captions, pairs, relation, relations, triplets
from toy_store import put

from pipeline.cli.explain import trace_of
from pipeline.cli.query import table_of
from pipeline.interop.run_rows import RunRows
from pipeline.interop.run_tables import tables_by_name
from pipeline.labels.label_funnel import BELOW_FLOOR, partition_tally
from pipeline.labels.label_rows import flat_labels
from pipeline.labels.labelled_partitions import held, images_with_boxes, partition_artifacts
from storage.remote_store import RemoteStore


def test_a_held_artifact_of_an_object_store_brings_its_table_once(tmp_path):
    url, files = f"memory://{uuid4().hex}", fsspec.filesystem("memory")
    key = put(RemoteStore(url, tmp_path / "here", files), "second", rows=(3, 4)).key
    found = RemoteStore(url, tmp_path / "elsewhere", files).find("second", key)
    assert found is not None
    artifact = held(found)
    table = artifact.table("second")
    assert table["image_id"].to_pylist() == [3, 4]
    assert artifact.table("second") is table
    assert artifact.manifest.partition == "toys/0000"


def test_a_label_shows_no_words_of_captions_that_were_made_after_it(book):
    book.add("ingest", "toys/0000", [book.image(1, TWO_PEOPLE)])
    _caption(book, "a man rides a horse", "man", "ride", "horse")
    book.add("tag", "toys/0000", [relations(1, (0, "ride", 2, 0.9))], inputs={"triplets": [_content(book, "parse")]})
    assert _words(book) == [("a man rides a horse", "man, ride, horse")]
    _caption(book, "a dog next to a man", "dog", "next to", "man")
    assert _words(book) == [(None, None)]
    trace = trace_of(book.run, "1")
    assert [caption["text"] for caption in trace.captions] == ["a dog next to a man"]
    assert [(label["words"], label["caption"]) for label in trace.labels] == [({}, None)]


def test_boxes_that_were_detected_before_a_dataset_had_annotations_no_longer_count(book):
    book.add("ingest", "toys/0000", [book.image(1, ())], settings={"format": "images"})
    book.add("detect", "toys/0000", [book.image(1, TWO_PEOPLE[:1])], inputs={"images": [_content(book, "ingest")]})
    assert [len(row["boxes"]) for row in _boxed(book)] == [1]
    book.add("ingest", "toys/0000", [book.image(1, TWO_PEOPLE)], settings={"format": "coco"})
    assert [len(row["boxes"]) for row in _boxed(book)] == [3]
    assert [table["boxes"].to_pylist() for name, table in _tables(book) if name == "images"] == [
        [row["boxes"] for row in _boxed(book)]
    ]


def test_boxes_of_a_dataset_that_left_the_recipe_no_longer_count(book):
    book.add("ingest", "toys/0000", [book.image(1, TWO_PEOPLE)])
    book.add("detect", "photos/0000", [book.image(2, TWO_PEOPLE[:1], dataset="photos")])
    assert [row["dataset"] for row in _boxed(book)] == ["toys"]
    assert RunRows(book.run).datasets() == ["toys"]


def _boxed(book: RunBuilder) -> list[dict[str, Any]]:
    return [row for found in images_with_boxes(book.run).values() for row in found.table("images").to_pylist()]


def _tables(book: RunBuilder) -> list[tuple[str, pa.Table]]:
    return [(name, table_of(parts).to_table()) for name, parts in tables_by_name(book.run).items()]


def _caption(book: RunBuilder, text: str, *words: str) -> None:
    """Caption image 1 and parse the caption into one triplet, again if that was done before."""
    book.add("caption", "toys/0000", [captions(1, text)], settings={"text": text})
    read = {"captions": [_content(book, "caption")]}
    book.add("parse", "toys/0000", [triplets(1, (0, *words))], inputs=read)


def _content(book: RunBuilder, step: str) -> str:
    return book.run.artifacts(step)["toys/0000"].content


def _words(book: RunBuilder) -> list[tuple[str | None, str | None]]:
    return [(row["caption"], row["words"]) for table in flat_labels(book.run) for row in table.to_pylist()]


def test_candidates_that_no_caption_proposes_reach_the_floor_like_others(book):
    labels = {"image_id": 1, "relations": [relation(0, "on", 2, 0.9, proposed=False, triplet=-1)]}
    book.add("tag", "toys/0000", [labels], candidates=[pairs(1, (0, "on", 2, 1), (1, "on", 2, 1))])
    found = partition_tally(partition_artifacts(book.run)["toys/0000"], ["on"], [None]).funnel()
    assert (found.candidates, found.lost["candidates"], found.unproposed, found.scored) == (2, {BELOW_FLOOR: 1}, 0, 1)
