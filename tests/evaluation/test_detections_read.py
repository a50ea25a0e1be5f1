"""Tests ground truth from annotation files, detections of several makers over it, and the writer of detections."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.evaluation.detections.read import DetectionSet, read_detections
from pipeline.evaluation.detections.table import DetectionsWriter
from pipeline.evaluation.ground_truth import GroundTruth
from storage.errors import FatalError
from storage.tables import DETECTIONS
from tests.data.toy_sets import save_json

HICO: dict[str, Any] = {
    "objects": ["cup", "person", "dining_table"],
    "verbs": ["hold", "no_interaction"],
    "filenames": ["HICO_test2015_00000007.jpg", "HICO_test2015_00000009.jpg", "HICO_test2015_00000010.jpg"],
    "size": [[100, 80], [100, 80], [100, 80]],
    "annotation": [
        {"boxes_h": [[1, 2, 11, 22]], "boxes_o": [[5, 5, 9, 9]], "object": [0], "verb": [0]},
        {
            "boxes_h": [[1, 2, 11, 22], [9, 9, 1, 1]], "boxes_o": [[5, 5, 9, 9], [5, 5, 9, 9]], "object": [2, 2],
            "verb": [1, 1],
        },
        {"boxes_h": [], "boxes_o": [], "object": [], "verb": []},
    ],
}  # fmt: skip
NAMES = HICO["filenames"]


@pytest.fixture
def truth(tmp_path: Path) -> GroundTruth:
    return GroundTruth.open("hico_instances", save_json(tmp_path / "truth.json", HICO))


def row(image_id: int | None, uri: str, pairs: Any = ((0, 1, "hold", 0.5),), boxes: Any = None) -> dict[str, Any]:
    """A row of DETECTIONS: a person and a cup, and pairs (subject, object, predicate, score)."""
    boxes = boxes or [("person", 0.9, 1, 2, 10, 20), ("cup", 0.8, 5, 5, 4, 4)]
    return {
        "image_id": image_id, "uri": uri, "width": 100, "height": 80,
        "boxes": [dict(zip(("category", "score", "x", "y", "w", "h"), box, strict=True)) for box in boxes],
        "pairs": [dict(zip(("subject", "object", "predicate", "score"), pair, strict=True)) for pair in pairs],
    }  # fmt: skip


ROWS = [
    row(9, "b/HICO_test2015_00000009.jpg", [(0, 1, "hold", 0.25), (1, 0, "No Interaction", 0.75)]),
    row(None, NAMES[0], [(0, -1, "hold", 0.5)]),
    row(10, NAMES[2], []),
]


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows, schema=DETECTIONS), path)
    return path


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(each) + "\n" for each in rows))
    return path


def write_with_us(path: Path, rows: list[dict[str, Any]]) -> Path:
    with DetectionsWriter(path, row_group=2) as writer:
        for each in rows:
            writer.write(each)
    return path


FILES: dict[str, Callable[[Path, list[dict[str, Any]]], Path]] = {
    "a.parquet": write_parquet, "b.json": write_lines, "c.json": save_json, "w.parquet": write_with_us,
    "w.json": write_with_us,
}  # fmt: skip
"""Each form of our table, and what writes it."""


def test_ground_truth_keeps_the_names_of_the_set_in_their_order(truth):
    assert truth.objects == ("cup", "person", "dining table") and truth.predicates == ("hold", "no interaction")
    assert truth.image_ids.tolist() == [7, 9, 10] and truth.sizes.tolist() == [[100, 80]] * 3
    relations = truth.relations
    assert (relations.images, relations.image.tolist()) == (3, [0, 1])
    assert relations.triplets.tolist() == [[1, 0, 0], [1, 2, 1]]
    assert relations.object_boxes.tolist() == [[5, 5, 9, 9]] * 2 and relations.scores is None
    assert np.bincount(truth.relations.image, minlength=3).tolist() == [1, 1, 0]
    assert truth.box_images.tolist() == [0, 0, 1, 1] and truth.boxes.labels.tolist() == [1, 0, 1, 2]
    assert [reject.reason for reject in truth.rejects] == ["box inverted", "relation without box"]


def test_ground_truth_from_rows_of_the_images_table():
    box = {"category": "person", "x": 1.0, "y": 2.0, "w": 3.0, "h": 4.0}
    rows = [
        {"image_id": 4, "uri": "a.jpg", "width": 9, "height": 8, "boxes": [], "relations": []},
        {
            "image_id": 5, "uri": "b.jpg", "width": 9, "height": 8, "boxes": [box, {**box, "category": "cup"}],
            # A predicate without a word is no label to train on, so it is none to find either.
            "relations": [{"subject": 0, "predicate": p, "object": 1} for p in ("is holding", "-")],
        },
    ]  # fmt: skip
    truth = GroundTruth.of_rows(rows)
    assert truth.objects == ("cup", "person") and truth.predicates == ("hold",)
    assert truth.relations.image.tolist() == [1] and truth.relations.subject_boxes.tolist() == [[1, 2, 4, 6]]


def test_interactions_without_an_object(tmp_path):
    images = [{"id": 5, "file_name": "a.jpg", "width": 100, "height": 80}]
    person = {"id": 11, "image_id": 5, "category_id": 1, "bbox": [1, 1, 10, 20]}
    instances = {"images": images, "annotations": [person], "categories": [{"id": 1, "name": "person"}]}
    walk = {"action_name": "walk", "role_name": ["agent"], "ann_id": [11], "image_id": [5], "label": [1],
            "role_object_id": [11]}  # fmt: skip
    truth = GroundTruth.open(
        "vcoco", save_json(tmp_path / "v.json", [walk]), {"instances": save_json(tmp_path / "i.json", instances)}
    )
    assert truth.relations.object_labels.tolist() == [-1] and np.isnan(truth.relations.object_boxes).all()


def test_ground_truth_of_no_use_is_refused(tmp_path):
    with pytest.raises(FatalError, match="annotations: no file"):
        GroundTruth.open("hico_instances", tmp_path / "none.json")
    empty = {**HICO, "filenames": [], "annotation": [], "size": []}
    with pytest.raises(FatalError, match="no usable image"):
        GroundTruth.open("hico_instances", save_json(tmp_path / "e.json", empty))
    (tmp_path / "cut.json").write_text(json.dumps(HICO)[:-20])
    with pytest.raises(FatalError, match="ends in the middle of its JSON"):
        GroundTruth.open("hico_instances", tmp_path / "cut.json")


def check_rows(found: DetectionSet) -> None:
    relations = found.relations
    assert relations.image.tolist() == [0, 1, 1] and relations.images == 3
    assert relations.triplets.tolist() == [[1, -1, 0], [1, 0, 0], [0, 1, 1]]
    assert relations.scores is not None and relations.scores.tolist() == [0.5, 0.25, 0.75]
    assert relations.subject_boxes.tolist() == [[1, 2, 11, 22], [1, 2, 11, 22], [5, 5, 9, 9]]
    assert np.isnan(relations.object_boxes[0]).all() and relations.object_boxes[1].tolist() == [5, 5, 9, 9]
    assert (found.findings.images, found.findings.relations, found.findings.faults) == (3, 3, ())


@pytest.mark.parametrize("name", FILES)
def test_our_table_is_read_in_every_form_and_in_batches(tmp_path, truth, monkeypatch, name):
    path = FILES[name](tmp_path / name, ROWS)
    check_rows(read_detections(path, truth))
    monkeypatch.setattr("pipeline.evaluation.detections.table.BATCH", 1)
    check_rows(read_detections(path, truth))


def test_what_is_written_has_groups_of_rows_and_short_scores(tmp_path):
    assert pq.ParquetFile(write_with_us(tmp_path / "w.parquet", ROWS)).num_row_groups == 2
    text = write_with_us(tmp_path / "w.json", ROWS).read_text()
    assert [json.loads(line)["uri"] for line in text.splitlines()] == [each["uri"] for each in ROWS]
    assert '"score": 0.9,' in text


@pytest.mark.parametrize("name", ["w.parquet", "w.json"])
def test_a_writer_that_is_interrupted_leaves_what_was_there(tmp_path, name):
    path = tmp_path / name
    path.write_text("before")
    with pytest.raises(KeyboardInterrupt), DetectionsWriter(path, row_group=1) as writer:
        writer.write(ROWS[0])
        raise KeyboardInterrupt
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]


def test_the_writer_refuses_what_is_not_finite_and_other_names(tmp_path):
    with (
        pytest.raises(FatalError, match=r"image 'x\.jpg' has scores or boxes that are not finite"),
        DetectionsWriter(tmp_path / "a.parquet") as writer,
    ):
        writer.write(row(1, "x.jpg", [(0, 1, "hold", float("nan"))]))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FatalError, match=r"a\.csv: detections are written to a file"):
        DetectionsWriter(tmp_path / "a.csv")


FAULTS = [
    ([row(8, "x.jpg")], "unknown image", 1),
    ([row(7, NAMES[0])], "duplicate image", 1),
    ([row(7, NAMES[1])], "image id and file name of different images", 1),
    ([row(7, NAMES[0], [(0, 1, "hold", float("nan")), (0, 1, "hold", -0.5)])], "score negative or not finite", 2),
    ([row(7, NAMES[0], boxes=[("person", 0.9, 9, 9, float("inf"), 2), ("cup", 0.9, 1, 1, 1, 1)])], "box not finite", 1),
    ([row(7, NAMES[0], [(0, 2, "hold", 0.5), (-1, 0, "hold", 0.5)])], "box index out of range", 2),
    ([row(7, NAMES[0], [(0, 1, "hold", 0.5), (0, 1, "lick", 0.5)])], "unknown predicate name", 1),
    ([row(7, NAMES[0], boxes=[("person", 0.9, 1, 1, 1, 1), ("robot", 0.9, 1, 1, 1, 1)])], "unknown object name", 1),
]


@pytest.mark.parametrize(("rows", "reason", "count"), FAULTS, ids=[fault[1] for fault in FAULTS])
def test_faulty_rows_are_refused_or_dropped_and_counted(tmp_path, truth, rows, reason, count):
    given = [row(7, NAMES[0]), *rows] if reason == "duplicate image" else [*ROWS[::2], *rows]
    path = write_parquet(tmp_path / "a.parquet", given)
    with pytest.raises(FatalError, match=f"can't be scored:\n  {reason}: {count}"):
        read_detections(path, truth, allow_missing=True)
    found = read_detections(path, truth, allow_missing=True, drop_faulty=True)
    assert {fault.reason: fault.count for fault in found.findings.faults}[reason] == count
    scores = found.relations.scores
    assert scores is not None and np.isfinite(scores).all() and (scores >= 0).all()
    assert len(found.relations) == {"duplicate image": 1, "unknown predicate name": 3}.get(reason, 2)


def test_an_inverted_box_is_noted_and_counts_as_a_wrong_prediction(tmp_path, truth):
    boxes = [("person", 0.9, 9, 9, -3, 2), ("cup", 0.9, 1, 1, 1, 1)]
    rows = [row(7, NAMES[0], [(0, 1, "hold", 0.5), (1, 1, "hold", 0.5)], boxes=boxes)]
    found = read_detections(write_parquet(tmp_path / "a.parquet", rows), truth, allow_missing=True)
    assert [(fault.reason, fault.count) for fault in found.findings.noted] == [("box inverted", 1)]
    assert "scored anyway: box inverted: 1 (HICO_test2015_00000007.jpg)" in str(found.findings)
    assert found.relations.subject_boxes.tolist() == [[9, 9, 6, 11], [1, 1, 2, 2]] and found.findings.faults == ()


def test_missing_images_are_an_error_unless_they_are_allowed(tmp_path, truth):
    path = write_parquet(tmp_path / "a.parquet", ROWS[:1])
    with pytest.raises(FatalError, match=r"images of the ground truth without a row: 2 \(HICO_test2015_00000007\.jpg"):
        read_detections(path, truth)
    found = read_detections(path, truth, allow_missing=True)
    assert found.findings.missing is not None and found.findings.missing.count == 2
    assert found.relations.images == 3 and "without a row: 2" in str(found.findings)


def test_names_that_fit_nothing_are_reported_with_those_that_would(tmp_path, truth):
    boxes = [("Mensch", 0.9, 1, 1, 1, 1), ("Tasse", 0.9, 1, 1, 1, 1)]
    path = write_parquet(tmp_path / "a.parquet", [row(7, NAMES[0], boxes=boxes)])
    expected = (
        "none of its object names.*the file has 'Mensch', 'Tasse'\n"
        "  the ground truth has 'cup', 'person', 'dining table'"
    )
    with pytest.raises(FatalError, match=f"(?s){expected}"):
        read_detections(path, truth, allow_missing=True, drop_faulty=True)


def test_canonical_names_fit_where_one_of_the_truth_has_that_form(tmp_path):
    path = save_json(tmp_path / "truth.json", HICO)
    detections = write_parquet(tmp_path / "a.parquet", [row(7, NAMES[0], [(0, 1, "is holding", 0.5)])])
    truth = GroundTruth.open("hico_instances", path)
    assert len(read_detections(detections, truth, allow_missing=True).relations) == 1
    both = save_json(tmp_path / "both.json", HICO | {"verbs": ["hold", "holding"]})
    with pytest.raises(FatalError, match="none of its predicate names"):
        read_detections(detections, GroundTruth.open("hico_instances", both), allow_missing=True)


@pytest.mark.parametrize("content, message", [
    (b"", r"is empty; expected detections"),
    (b"[]", "contains no image"),
    (b"\x80\x04]", "is a pickle, which can run code when loaded; write it as JSON"),
    (b"PAR1 and no more", "can't be read as a table of detections"),
    (b'[{"a": 1}]', r"its first entry is .*'a': 1"),
    (json.dumps(ROWS).encode()[:-30], r"not valid JSON at line 1, column"),
    ((json.dumps(ROWS[0]) + "\n" + json.dumps(ROWS[1])[:-9]).encode(), "line 2 is not valid JSON"),
    (json.dumps([ROWS[0], {"boxes": []}]).encode(), "image 1 has no boxes and pairs"),
    (json.dumps([{**ROWS[0], "pairs": [{"subject": "x"}]}]).encode(), "image 0 to image 0: values of the wrong type"),
])  # fmt: skip
def test_files_of_other_kinds_and_truncated_ones(tmp_path, truth, content, message):
    path = tmp_path / "detections"
    path.write_bytes(content)
    with pytest.raises(FatalError, match=message):
        read_detections(path, truth, allow_missing=True, drop_faulty=True)


def test_a_table_of_other_columns(tmp_path, truth):
    pq.write_table(pa.table({"image_id": [1]}), tmp_path / "a.parquet")
    with pytest.raises(FatalError, match="has no column uri, boxes, pairs"):
        read_detections(tmp_path / "a.parquet", truth)


def pair(image: str, **changed: Any) -> dict[str, Any]:
    given = {
        "image": image, "box_h": [1, 2, 11, 22], "box_o": [5, 5, 9, 9], "object_coco80": 41, "verb": 0, "score": 0.5,
    }  # fmt: skip
    return given | changed


def test_a_list_of_pairs(tmp_path, truth):
    entries = [pair(NAMES[1], object_coco80=60, verb=1), pair(NAMES[0]), pair(NAMES[1], score=0.9)]
    found = read_detections(save_json(tmp_path / "a.json", entries), truth, allow_missing=True)
    assert found.relations.image.tolist() == [0, 1, 1]
    assert found.relations.triplets.tolist() == [[1, 0, 0], [1, 2, 1], [1, 0, 0]]
    assert found.findings.images == 2


@pytest.mark.parametrize("changed, reason", [
    ({"object_coco80": 80}, "object class out of range"), ({"verb": -1}, "predicate out of range"),
    ({"score": float("nan")}, "score negative or not finite"), ({"box_o": [9, 9, 5]}, "pair malformed"),
    ({"object_coco80": 0.5}, "pair malformed"),
])  # fmt: skip
def test_faulty_pairs(tmp_path, truth, changed, reason):
    path = save_json(tmp_path / "a.json", [pair(NAMES[0]), pair(**{"image": NAMES[0], **changed})])
    with pytest.raises(FatalError, match=f"{reason}: 1 "):
        read_detections(path, truth, allow_missing=True)
    assert len(read_detections(path, truth, allow_missing=True, drop_faulty=True).relations) == 1


def dense(scores: Any, **changed: Any) -> dict[str, Any]:
    given = {
        "boxes": [[1, 2, 11, 22], [5, 5, 9, 9]], "labels": [1, 0], "verb_scores": scores, "sub_ids": [0, 1],
        "obj_ids": [1, 0],
    }  # fmt: skip
    return given | changed


def test_scores_of_every_pair_and_predicate(tmp_path, truth):
    entries = [dense([[0.1, 0.9], [0.8, 0.2]]), dense([[0.1, 0.2], [0.3, 0.4]]), dense([], sub_ids=[], obj_ids=[])]
    path = save_json(
        tmp_path / "a.json", [{**entry, "file_name": name} for entry, name in zip(entries, NAMES, strict=True)]
    )
    found = read_detections(path, truth, per_image=3).relations
    assert found.image.tolist() == [0, 0, 0, 1, 1, 1]
    assert found.scores is not None and found.scores.tolist() == [0.9, 0.8, 0.2, 0.4, 0.3, 0.2]
    assert found.triplets.tolist()[:2] == [[1, 0, 1], [0, 1, 0]]
    allowed = np.array([[True, False], [True, True], [True, True]])
    found = read_detections(path, truth, per_image=1, allowed=allowed).relations
    assert found.scores is not None and found.scores.tolist() == [0.8, 0.4]


def test_images_of_such_a_list_are_found_by_id_or_name_alone(tmp_path, truth):
    scores = [[0.5, 0], [0, 0]]
    path = save_json(tmp_path / "a.json", [dense(scores, image_id=9), dense(scores, file_name=NAMES[0])])
    assert read_detections(path, truth, allow_missing=True, per_image=1).relations.image.tolist() == [0, 1]
    with pytest.raises(FatalError, match="not all of its images have an image_id or a file_name"):
        read_detections(save_json(path, [dense(scores, image_id=9), dense(scores)]), truth)


@pytest.mark.parametrize("entry, message", [
    (dense([[0.5, float("nan")], [-1, 0]]), "score negative or not finite: 2"),
    (dense([[0.5, 0], [0, 0]], obj_ids=[2, 0]), "box index out of range: 1"),
    (dense([[0.5, 0], [0, 0]], labels=[1, 3]), "object class out of range: 2"),
    (dense([[0.5], [0.5]]), "image 0 scores 1 predicates, the ground truth has 2"),
    (dense([[0.5, "x"], [0, 0]]), "image 0 lacks one of .*, or they do not fit"),
])  # fmt: skip
def test_faulty_images_of_such_a_list(tmp_path, truth, entry, message):
    with pytest.raises(FatalError, match=message):
        read_detections(save_json(tmp_path / "a.json", [{**entry, "image_id": 7}]), truth, allow_missing=True)


def test_a_truth_in_shares_becomes_pixels_by_the_sizes_of_the_detections(tmp_path):
    header = "ImageID,LabelName1,LabelName2,XMin1,XMax1,YMin1,YMax1,XMin2,XMax2,YMin2,YMax2,RelationshipLabel\n"
    (tmp_path / "vrd.csv").write_text(header + "fe00000000000001,/m/1,/m/2,0.1,0.3,0.2,0.4,0.5,0.75,0.5,1.0,hold\n")
    (tmp_path / "classes.csv").write_text("/m/1,Person\n/m/2,Cup\n")
    truth = GroundTruth.open("open_images", tmp_path / "vrd.csv", {"classes": tmp_path / "classes.csv"})
    given = row(None, "fe00000000000001.jpg")
    found = read_detections(write_parquet(tmp_path / "a.parquet", [given]), truth)
    assert found.relations.object_boxes.tolist() == [[5, 5, 9, 9]]
    np.testing.assert_allclose(found.truth.relations.object_boxes, [[50, 40, 75, 80]])
    np.testing.assert_allclose(found.truth.boxes.boxes[0], [10, 16, 30, 32])
    assert found.truth.sizes.tolist() == [[100, 80]]
    with pytest.raises(FatalError, match=r"1 images have no width and height, .*--images"):
        read_detections(write_parquet(tmp_path / "b.parquet", [{**given, "width": None}]), truth)
    with pytest.raises(FatalError, match="width or height differs from the ground truth's: 1"):
        read_detections(write_parquet(tmp_path / "c.parquet", [given]), truth.with_sizes(np.array([[200, 160]])))


def test_public_detections_over_public_truth(shared):
    folder = shared / "data/hico_det"
    truth = GroundTruth.open("hico_instances", folder / "ground_truth_800.json")
    found = read_detections(folder / "detections_800.json", truth, allow_missing=True)
    given = json.loads((folder / "detections_800.json").read_text())
    assert len(found.relations) == len(given) == 5242 and found.findings.faults == ()
    # Most detections are noisy copies of true pairs, so that names and images agree where the mapping is right.
    first = given[0]
    chosen = found.relations.take(np.flatnonzero(found.relations.scores == first["score"]))
    assert truth.predicates[first["verb"]] == truth.predicates[int(chosen.predicates[0])]
    assert truth.uris[int(chosen.image[0])] == first["image"]
    assert {truth.objects[int(label)] for label in found.relations.subject_labels} == {"person"}
    kinds = {tuple(kind) for kind in truth.relations.triplets.tolist()}
    assert np.mean([tuple(kind) in kinds for kind in found.relations.triplets.tolist()]) > 0.6
