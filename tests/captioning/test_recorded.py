"""Recorded captions: every supported layout, and what can be wrong in files from outside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pydantic import ValidationError

from pipeline.captioning.recorded import RecordedCaptioner
from pipeline.captioning.settings import CaptionSettings
from pipeline.stages.caption import open_captioner
from storage.errors import FatalError
from storage.tables import CAPTIONS, write_table


def written(folder: Path, name: str, content: Any) -> Path:
    path = folder / name
    path.write_text(json.dumps(content))
    return path


def recorded(*paths: Path) -> RecordedCaptioner:
    return RecordedCaptioner(CaptionSettings(captioner="recorded", recorded=paths))


def texts(captioner: RecordedCaptioner, image_id: int) -> list[str]:
    return [caption.text for caption in captioner.caption([], [image_id])[0]]


def test_coco_captions(tmp_path: Path) -> None:
    entries = [{"image_id": 3, "id": 1, "caption": "a dog"}, {"image_id": 3, "id": 2, "caption": "a dog runs"}]
    captioner = recorded(written(tmp_path, "captions.json", {"annotations": entries, "images": []}))
    (found,) = captioner.caption([], [3])
    assert [(c.text, c.draw, c.source, c.seed) for c in found] == [
        ("a dog", 0, "captions", None),
        ("a dog runs", 1, "captions", None),
    ]


def test_the_authors_layout(tmp_path: Path) -> None:
    captioner = recorded(written(tmp_path, "a.json", {"9": ["a cat", "a cat sits"], "10": "a bus"}))
    assert texts(captioner, 9) == ["a cat", "a cat sits"]
    assert texts(captioner, 10) == ["a bus"]


def test_rows_by_model_name(tmp_path: Path) -> None:
    rows = [{"image_id": 5, "blip_beam": "a man", "blip_nucleus": ["a man rides", "man on horse"]}]
    (found,) = recorded(written(tmp_path, "a.json", rows)).caption([], [5])
    assert [(c.text, c.source) for c in found] == [
        ("a man", "blip_beam"),
        ("a man rides", "blip_nucleus"),
        ("man on horse", "blip_nucleus"),
    ]


def test_several_files_are_concatenated_by_image(tmp_path: Path) -> None:
    first = written(tmp_path, "first.json", [{"image_id": 1, "caption": "one"}])
    second = written(tmp_path, "second.json", {"1": ["two"], "2": ["three"]})
    captioner = recorded(first, second)
    assert [(c.text, c.draw, c.source) for c in captioner.caption([], [1])[0]] == [
        ("one", 0, "first"),
        ("two", 1, "second"),
    ]
    assert captioner.image_ids() == {1, 2}
    assert captioner.caption([], [2, 77, 1])[1] == []


def test_the_captions_table_comes_back_as_it_was(tmp_path: Path) -> None:
    captions = [
        {
            "text": "a man",
            "draw": 0,
            "seed": 4,
            "log_probability": -2.5,
            "source": "blip nucleus",
            "match": 0.5,
            "times": 2,
        },
        {
            "text": "a horse",
            "draw": 1,
            "seed": None,
            "log_probability": None,
            "source": "people",
            "match": None,
            "times": 1,
        },
    ]
    path = tmp_path / "captions.parquet"
    write_table(pa.Table.from_pylist([{"image_id": 8, "captions": captions}], schema=CAPTIONS), path)
    (found,) = recorded(path).caption([], [8])
    assert [caption._asdict() for caption in found] == captions


def test_what_is_no_caption_is_rejected_and_the_rest_kept(tmp_path: Path) -> None:
    rows = [
        {"image_id": 1, "caption": 12},
        {"image_id": 2, "caption": " \n "},
        {"image_id": 3, "caption": "word " * 1000},
        {"image_id": "x", "caption": "a dog"},
        "nonsense",
        {"image_id": 4, "caption": None},
        {"image_id": "5", "caption": "kept"},
    ]
    captioner = recorded(written(tmp_path, "a.json", rows))
    assert [(reject.image_id, reject.reason) for reject in captioner.rejects] == [
        (1, "caption not text"),
        (2, "caption empty"),
        (3, "caption too long"),
        (-1, "caption without image id"),
        (-1, "caption without image id"),
        (4, "caption not text"),
    ]
    assert texts(captioner, 5) == ["kept"]
    assert captioner.image_ids() == {5}


def test_control_characters_are_stripped(tmp_path: Path) -> None:
    rows = [{"image_id": 1, "caption": "a\x00 man\x1b[31m\n\triding \u202ea\u200b horse \ud800"}]
    assert texts(recorded(written(tmp_path, "a.json", rows)), 1) == ["a man [31m riding a horse"]


@pytest.mark.parametrize("content", ["", "{", "3", '"text"', "\x80"])
def test_a_file_that_is_something_else_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(FatalError, match=r"bad\.json.*expected COCO captions"):
        recorded(path)


def test_a_missing_file_and_a_false_table_are_named(tmp_path: Path) -> None:
    with pytest.raises(FatalError, match=r"gone\.json: no such file"):
        recorded(tmp_path / "gone.json")
    path = tmp_path / "false.parquet"
    write_table(pa.table({"a": [1]}), path)
    with pytest.raises(FatalError, match=r"false\.parquet: not a captions table"):
        recorded(path)
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(FatalError, match=r"false\.parquet: not a captions table"):
        recorded(path)


def test_settings_need_a_file() -> None:
    with pytest.raises(ValidationError, match="name at least one file"):
        CaptionSettings(captioner="recorded")


def test_settings_say_which_field_is_wrong() -> None:
    with pytest.raises(ValidationError, match="top_p"):
        CaptionSettings(top_p=1.5)
    with pytest.raises(ValidationError, match="min_length: 30 is above max_length"):
        CaptionSettings(min_length=30)
    with pytest.raises(ValidationError, match="nucleus_p"):
        CaptionSettings(nucleus_p=0.9)  # type: ignore[call-arg]


def test_only_settings_that_change_rows_are_in_the_key() -> None:
    kept = CaptionSettings().row_settings()
    assert {"draws", "top_p", "seed", "precision", "prompt"} <= kept.keys()
    assert not {"batch_size", "model", "hub", "recorded"} & kept.keys()


def test_open_captioner_opens_recorded_captions(tmp_path: Path) -> None:
    path = written(tmp_path, "a.json", {"1": ["a dog"]})
    captioner = open_captioner(CaptionSettings(captioner="recorded", recorded=(path,)))
    assert not captioner.needs_images
    assert captioner.caption([], [1])[0][0].text == "a dog"


def test_real_recorded_captions(shared: Path) -> None:
    coco = shared / "data" / "coco" / "annotations"
    people = recorded(coco / "captions_sample2017.json")
    assert len(people.image_ids()) == 188
    assert sum(len(found) for found in people.caption([], sorted(people.image_ids()))) == 940
    models = recorded(coco / "captions_blip_sample2017.json")
    assert {c.source for found in models.caption([], sorted(models.image_ids())) for c in found} == {
        "blip_vitl_beam",
        "blip_vitl_nucleus",
        "blip2_opt27b",
    }
    assert len(recorded(shared / "data" / "blip_captions" / "BLIP_ViT-L.json").image_ids()) == 5000
    assert not people.rejects and not models.rejects
