"""`rlip predict`: a table of what was found, drawings, and words for what can't be used."""

import json
from pathlib import Path

import pytest
from PIL import Image
from rlip_command import output_of, rlip

from pipeline.cli.predict import drawable, label_names
from storage.tables import read_table


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Three images, one of them damaged."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in (1, 2):
        Image.new("RGB", (120, 90), (90 * number, 80, 60)).save(folder / f"{number}.jpg")
    (folder / "3 [copy].jpg").write_bytes((folder / "1.jpg").read_bytes()[:200])
    return folder


def test_what_is_found_is_written_and_drawn_and_a_damaged_picture_is_named(pictures, tmp_path):
    words = ("--objects", "man,dog", "--predicates", "hold", "--per-image", "5", "--draw", tmp_path / "drawn")
    (tmp_path / "asked").mkdir()
    (tmp_path / "asked/link").symlink_to(pictures)
    done = rlip("predict", "demo-detector", tmp_path / "asked", *words, "--out", tmp_path / "found.parquet")
    assert done.exit_code == 0, done.output
    assert "3 [copy].jpg (truncated" in done.output.replace("\n", " ") and "learned boxes alone" in done.stderr
    rows = read_table(tmp_path / "found.parquet").to_pylist()
    assert [Path(row["uri"]).name for row in rows] == ["1.jpg", "2.jpg"]
    assert all(0 < len(row["pairs"]) <= 5 and {b["category"] for b in row["boxes"]} <= {"man", "dog"} for row in rows)
    assert all(pair["subject"] != pair["object"] for row in rows for pair in row["pairs"])
    assert len(list((tmp_path / "drawn").glob("*.png"))) == 2


@pytest.mark.parametrize("options, message", [
    (("--subject", "cat"), "not among the object names"), (("--objects", ","), "has no names of objects"),
    (("--objects", "man,no objects"), 'contain "no objects"'),
    (("--out", "found.csv"), ".parquet or .json"), (("--device", "cuda:9"), "finds no such GPU"),
])  # fmt: skip
def test_what_cannot_be_asked_is_reported_before_any_picture_is_read(pictures, tmp_path, options, message):
    given = {"--objects": "man", "--predicates": "hold", "--out": tmp_path / "found.parquet"} | dict([options])
    done = rlip("predict", "demo-detector", pictures, *(word for pair in given.items() for word in pair))
    assert done.exit_code == 1 and message in done.output
    assert not (tmp_path / "found.parquet").exists()


def test_a_subject_that_the_network_never_finds_is_reported(pictures, tmp_path):
    words = ("--objects", "sky,man,dog", "--predicates", "hold", "--subject", "man", "--out", tmp_path / "found.json")
    asked = ("predict", "demo-detector", pictures / "1.jpg", *words)
    for options in ((), ("--json",)):
        assert "gives 14 of 14 subjects another name" in rlip(*asked, *options).stderr
    assert not json.loads((tmp_path / "found.json").read_text())["pairs"]
    assert "another name" not in rlip(*asked, "--assume-subject").output
    row = json.loads((tmp_path / "found.json").read_text())
    assert row["pairs"] and all(row["boxes"][pair["subject"]]["category"] == "man" for pair in row["pairs"])


def test_a_subject_is_found_in_the_form_of_the_objects_and_is_needed_to_assume_one(pictures, tmp_path):
    words = ("--objects", "traffic_light,man", "--predicates", "hold", "--out", tmp_path / "found.json")
    output_of("predict", "demo-detector", pictures / "1.jpg", *words, "--subject", "traffic_light")
    done = rlip("predict", tmp_path / "no weights", pictures / "1.jpg", *words, "--assume-subject")
    assert done.exit_code == 1 and "add it, e.g. --subject person" in done.output


def test_the_text_encoder_gets_words_and_neither_ids_nor_underscores(tmp_path):
    listed = tmp_path / "verbs.txt"
    listed.write_text("001  adjust        \n007  brush_with    \n\n")
    assert label_names("predicates", f"@{listed}", ()) == ("adjust", "brush with")
    listed.write_text(" vb_id  verb\n--------------\n 001  adjust\n 001  brush_with\n 003  carry\n")
    assert label_names("predicates", f"@{listed}", ()) == ("adjust", "brush with", "carry")
    listed.write_text("brush_with\n2 dogs\n")
    assert label_names("predicates", f"@{listed}", ()) == ("brush with", "2 dogs")
    assert label_names("predicates", "brush_with,sit_at", ("sit_at",)) == ("brush with", "sit_at")


def test_names_are_spelled_as_in_training_because_others_are_other_texts():
    asked = "Sit at, HOLD, Brush_With,hold"
    assert label_names("predicates", asked, ("hold", "sit_at")) == ("sit_at", "hold", "Brush With")
    assert label_names("objects", "person,DOG", ("Person", "person", "Dog")) == ("person", "Dog"), "both are learned"


def test_invalid_weights_are_reported_before_names_are_asked_for(pictures, tmp_path):
    for name in ("photos.safetensors", "authors.pth"):
        (tmp_path / name).write_bytes(b"7")
    told = {
        "gone.safetensors": "no weights at",
        ".": f"no weights at {tmp_path / 'model.safetensors'}",
        "photos.safetensors": "not a readable",
        "authors.pth": "weights import",
    }
    for name, message in told.items():
        done = rlip("predict", tmp_path / name, pictures, "--out", tmp_path / "found.parquet")
        assert done.exit_code == 1 and message in done.output and "has no names" not in done.output


def test_what_is_below_the_threshold_is_left_out_and_names_in_another_case_are_one(pictures, tmp_path):
    words = ("--objects", "man,Man,dog", "--predicates", "hold", "--threshold", "0.02")
    output_of("predict", "demo-detector", pictures / "1.jpg", *words, "--out", tmp_path / "found.json")
    row = json.loads((tmp_path / "found.json").read_text())
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


def test_no_readable_picture_is_an_error(pictures, tmp_path):
    words = ("--objects", "man", "--predicates", "hold", "--out", tmp_path / "found.parquet")
    done = rlip("predict", "demo-detector", pictures / "3 [copy].jpg", *words)
    assert done.exit_code == 1 and "none of 1 images can be read" in done.output
    assert not (tmp_path / "found.parquet").exists()
