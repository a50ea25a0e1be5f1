"""`rlip predict` and `rlip evaluate`: a table of what was found, drawings, figures, and words for what can't be used."""

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from pipeline.cli.app import app
from pipeline.cli.predict import drawable
from storage.tables import read_table

TRUTH = [
    {
        "file_name": f"HICO_test2015_0000000{number}.jpg",
        "img_id": number,
        "annotations": [{"bbox": [10, 10, 50, 90], "category_id": 1}, {"bbox": [40, 60, 80, 95], "category_id": 2}],
        "hoi_annotation": [{"subject_id": 0, "object_id": 1, "category_id": 1, "hoi_category_id": 1}],
    }
    for number in (1, 2, 3, 4, 5, 6, 7, 8)
]


def rlip(*words: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, [str(word) for word in words])
    return done.exit_code, done.output


@pytest.fixture
def pictures(root: Path, tmp_path: Path) -> Path:
    """Three images, one of them damaged."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in (1, 2):
        Image.new("RGB", (120, 90), (90 * number, 80, 60)).save(folder / f"{number}.jpg")
    (folder / "3.jpg").write_bytes((folder / "1.jpg").read_bytes()[:200])
    return folder


def test_what_is_found_is_written_and_drawn_and_a_damaged_picture_is_named(root, pictures, tmp_path):
    detector = root / "scenes" / "weights" / "detector"
    code, told = rlip(
        "predict", detector, pictures, "--objects", "man,dog", "--predicates", "hold", "--per-image", 5,
        "--out", tmp_path / "found.parquet", "--draw", tmp_path / "drawn",
    )  # fmt: skip
    assert code == 0, told
    assert "3.jpg (truncated" in told.replace("\n", " ")
    rows = read_table(tmp_path / "found.parquet").to_pylist()
    assert [Path(row["uri"]).name for row in rows] == ["1.jpg", "2.jpg"]
    assert all(0 < len(row["pairs"]) <= 5 and {b["category"] for b in row["boxes"]} <= {"man", "dog"} for row in rows)
    assert all(pair["subject"] != pair["object"] for row in rows for pair in row["pairs"])
    assert len(list((tmp_path / "drawn").glob("*.png"))) == 2


@pytest.mark.parametrize("options, message", [
    (("--subject", "cat"), "not among the objects"), (("--objects", ","), "has no names of objects"),
    (("--out", "found.csv"), ".parquet or .json"), (("--device", "cuda:9"), "finds no such GPU"),
])  # fmt: skip
def test_what_cannot_be_asked_is_told_before_any_picture_is_read(root, pictures, tmp_path, options, message):
    given = {"--objects": "man", "--predicates": "hold", "--out": tmp_path / "found.parquet"} | dict([options])
    words = [word for pair in given.items() for word in pair]
    code, told = rlip("predict", root / "scenes" / "weights" / "detector", pictures, *words)
    assert code == 1
    assert message in told
    assert not (tmp_path / "found.parquet").exists()


def test_boxes_and_relations_below_the_threshold_are_left_out_and_names_in_another_case_are_one(
    root, pictures, tmp_path
):
    out = tmp_path / "found.json"
    code, told = rlip(
        "predict", root / "scenes" / "weights" / "detector", pictures / "1.jpg", "--objects", "man,Man,dog",
        "--predicates", "hold", "--out", out, "--threshold", 0.02,
    )  # fmt: skip
    assert code == 0, told
    row = json.loads(out.read_text())
    assert "Man" not in {box["category"] for box in row["boxes"]}
    assert all(pair["score"] >= 0.02 for pair in row["pairs"])
    ends = {end for pair in row["pairs"] for end in (pair["subject"], pair["object"])}
    assert all(box["score"] >= 0.02 or place in ends for place, box in enumerate(row["boxes"]))


def test_confident_boxes_are_drawn_without_a_relation_and_relations_however_unsure():
    box = {"category": "dog", "x": 1.0, "y": 2.0, "w": 3.0, "h": 4.0}
    boxes = [{**box, "score": score} for score in (0.2, 0.9, 0.3, 0.1)]
    pairs = [{"subject": s, "object": o, "predicate": "on", "score": 0.01} for s, o in ((2, 0), (0, 3))]
    seen = drawable({"boxes": boxes, "pairs": pairs}, 100, 1)
    assert len(seen.boxes) == 3
    assert [(r.subject, r.object) for r in seen.relations] == [(2, 0)]


def test_no_readable_picture_is_an_error(root, pictures, tmp_path):
    detector, out = root / "scenes" / "weights" / "detector", tmp_path / "found.parquet"
    code, told = rlip("predict", detector, pictures / "3.jpg", "--objects", "man", "--predicates", "hold", "--out", out)
    assert code == 1 and "none of 1 images can be read" in told
    assert not out.exists()


@pytest.fixture
def scored(tmp_path: Path):
    """A function that scores detections of the made test set: `images` of it, with this verb."""
    files = {"truth.json": TRUTH, "verbs.json": ["ride", "hold"], "objects.json": ["person", "bicycle"]}
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))

    def evaluate(images: int, predicate: str, *options: object) -> tuple[int, str]:
        boxes = [
            {"category": "person", "score": 1.0, "x": 10.0, "y": 10.0, "w": 40.0, "h": 80.0},
            {"category": "bicycle", "score": 1.0, "x": 40.0, "y": 60.0, "w": 40.0, "h": 35.0},
        ]
        pairs = [{"subject": 0, "object": 1, "predicate": predicate, "score": 0.9}]
        same = {"width": 100, "height": 100, "boxes": boxes, "pairs": pairs}
        rows = [same | {"image_id": entry["img_id"], "uri": entry["file_name"]} for entry in TRUTH[:images]]
        (tmp_path / "found.json").write_text("\n".join(map(json.dumps, rows)))
        given = ["--ground-truth", tmp_path / "truth.json", "--detections", tmp_path / "found.json"]
        lists = [f"--file={field}={tmp_path / field}.json" for field in ("verbs", "objects")]
        return rlip("evaluate", "hico-det", *given, *lists, *options)

    return evaluate


def figures(told: str) -> dict[str, dict[str, float]]:
    return {each["name"]: each for each in json.loads(told)["figures"]}


def test_detections_are_scored_with_intervals_and_a_report(scored, tmp_path):
    code, told = scored(8, "ride", "--json", "--known-object", "--report", tmp_path / "report")
    assert code == 0, told
    found = figures(told)
    assert found["full"]["value"] == found["known_full"]["value"] == 1.0
    assert found["full"]["low"] == found["full"]["high"] == 1.0
    assert {path.name for path in (tmp_path / "report").iterdir()} == {"index.html", "evaluation.md", "evaluation.json"}
    assert figures(scored(8, "hold", "--json")[1])["full"]["value"] == 0.0


def test_a_split_needs_the_list_that_it_counts_in(scored):
    code, told = scored(8, "ride", "--split", "UC-NF")
    assert code == 1 and "--interactions" in told
