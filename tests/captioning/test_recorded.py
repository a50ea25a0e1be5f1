"""Recorded captions: every supported layout, and what can be wrong in files from outside."""

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pydantic import ValidationError
from run_builder import captions

from pipeline.captioning.recorded import RecordedCaptioner
from pipeline.captioning.settings import CaptionSettings
from pipeline.interop.export_run import export_run
from pipeline.stages.caption import CaptionStage
from storage.errors import FatalError
from storage.tables import CAPTIONS, write_table


def written(folder: Path, name: str, content: Any) -> Path:
    path = folder / name
    path.write_text(json.dumps(content))
    return path


def recorded(*paths: Path, **settings: Any) -> RecordedCaptioner:
    return RecordedCaptioner(CaptionSettings(captioner="recorded", recorded=paths, **settings))


def texts(captioner: RecordedCaptioner, image_id: int) -> list[str]:
    return [caption.text for caption in captioner.caption([], [image_id])[0]]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (  # COCO's
            {"annotations": [{"image_id": 3, "id": i, "caption": f"a dog {i}"} for i in (1, 2)], "images": []},
            [("a dog 1", 0, "a", None), ("a dog 2", 1, "a", None)],
        ),
        ({"3": ["a cat", "a cat sits"], "10": "a bus"}, [("a cat", 0, "a", None), ("a cat sits", 1, "a", None)]),
        (  # by the name of the model
            [{"image_id": 3, "file_name": "3.jpg", "beam": "a man", "nucleus": ["a man rides", "man on horse"]}],
            [("a man", 0, "beam", None), ("a man rides", 1, "nucleus", None), ("man on horse", 2, "nucleus", None)],
        ),
    ],
)
def test_layouts_of_files(tmp_path, content, expected):
    settings = CaptionSettings(captioner="recorded", recorded=(written(tmp_path, "a.json", content),))
    captioner = settings.plugin.open()
    assert not captioner.needs_images
    assert [(c.text, c.draw, c.source, c.seed) for c in captioner.caption([], [3])[0]] == expected


def test_several_files_are_concatenated_by_image(tmp_path):
    first = written(tmp_path, "first.json", [{"image_id": 1, "caption": "one"}])
    second = written(tmp_path, "second.json", {"1": ["two"], "2": ["three"]})
    captioner = recorded(first, second)
    assert [(c.text, c.draw, c.source) for c in captioner.caption([], [1])[0]] == [
        ("one", 0, "first"),
        ("two", 1, "second"),
    ]
    assert captioner.image_ids() == {1, 2}
    assert captioner.caption([], [2, 77, 1])[1] == []


def test_ids_below_0_are_numbers(tmp_path):
    as_text, as_number = {"-5": ["a cat"]}, [{"image_id": -5, "caption": "a dog"}]
    captioner = recorded(written(tmp_path, "text.json", as_text), written(tmp_path, "number.json", as_number))
    assert texts(captioner, -5) == ["a dog"] and [reject.value for reject in captioner.rejects] == ["-5"]


def test_the_captions_table_comes_back_as_it_was(tmp_path):
    full = {"seed": 4, "log_probability": -2.5, "source": "blip nucleus", "match": 0.5, "times": 2}
    bare = {"seed": None, "log_probability": None, "source": "people", "match": None, "times": 1}
    captions = [
        {"text": "a man", "draw": 0, **full, "boxes": None},
        {"text": "a cow", "draw": 1, **bare, "boxes": (3,)},
    ]
    path = tmp_path / "captions.parquet"
    write_table(pa.Table.from_pylist([{"image_id": 8, "captions": captions}], schema=CAPTIONS), path)
    (found,) = recorded(path, of=["image", "box"]).caption([], [8])
    assert [caption._asdict() for caption in found] == captions
    unasked = recorded(path, of="pair").rejects
    assert [each.reason for each in unasked] == ["caption.of lacks 'image'", "caption.of lacks 'box'"]


def test_an_exported_captions_table_is_read_unless_two_datasets_number_alike(tmp_path, book):
    for partition, image_id in (("toys/0000", 1), ("photos/0000", 2), ("others/0000", 2)):
        book.add("caption", partition, [captions(image_id, f"image {image_id}")])
        export_run(book.run, "parquet", tmp_path / partition[0])
        if partition != "others/0000":
            assert texts(recorded(tmp_path / partition[0] / "captions.parquet"), image_id) == [f"image {image_id}"]
    with pytest.raises(FatalError, match="images of two datasets have one id"):
        recorded(tmp_path / "o" / "captions.parquet")


def test_control_characters_are_stripped(tmp_path):
    rows = [{"image_id": 1, "caption": "a\x00 man\x1b[31m\n\triding \u202ea\u200b horse \ud800"}]
    assert texts(recorded(written(tmp_path, "a.json", rows)), 1) == ["a man [31m riding a horse"]


def test_a_missing_file_and_a_false_table_are_named(tmp_path):
    with pytest.raises(FatalError, match=r"gone\.json: no such file"):
        recorded(tmp_path / "gone.json")
    path = tmp_path / "false.parquet"
    write_table(pa.table({"a": [1]}), path)
    with pytest.raises(FatalError, match=r"false\.parquet: not a captions table"):
        recorded(path)
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(FatalError, match=r"false\.parquet: not a captions table"):
        recorded(path)


@pytest.mark.parametrize("settings, message", [
    ({"captioner": "recorded"}, "name at least one caption file"), ({"top_p": 1.5}, "top_p"),
    ({"of": ["box", "box"]}, "names one twice"), ({"min_length": 30}, "min_length: 30 is above max_length"),
    ({"nucleus_p": 0.9}, "nucleus_p"),
    ({"captioner": "recorded", "recorded": ["a.parquet"], "of": "pair", "filter": "itm"}, "with whole images"),
])  # fmt: skip
def test_settings_say_which_field_is_wrong(settings, message):
    with pytest.raises(ValidationError, match=message):
        CaptionSettings.model_validate(settings)


def test_only_settings_that_change_rows_are_in_the_key():
    kept = CaptionSettings().row_settings()
    assert {"draws", "top_p", "seed", "precision", "prompt"} <= kept.keys()
    assert not {"batch_size", "model", "hub", "recorded"} & kept.keys()


def test_the_precision_of_the_filter_is_in_the_key_of_captions_that_need_no_model(tmp_path):
    settings = CaptionSettings(captioner="recorded", recorded=(tmp_path / "captions.json",), precision="bfloat16")
    filtered = settings.model_copy(update={"filter": "matcher"})
    assert CaptionStage(filtered).row_settings()["precision"] == "bfloat16"
    assert "precision" not in CaptionStage(settings).row_settings()


def test_real_recorded_captions(shared):
    coco = shared / "data" / "coco" / "annotations"
    people = recorded(coco / "captions_sample2017.json")
    assert len(people.image_ids()) == 188
    assert sum(len(found) for found in people.caption([], sorted(people.image_ids()))) == 940
    models = recorded(coco / "captions_blip_sample2017.json")
    assert {c.source for found in models.caption([], sorted(models.image_ids())) for c in found} == {
        "blip_vitl_beam", "blip_vitl_nucleus", "blip2_opt27b",
    }  # fmt: skip
    assert len(recorded(shared / "data" / "blip_captions" / "BLIP_ViT-L.json").image_ids()) == 5000
    assert not people.rejects and not models.rejects


STATED = {
    "images": [{"id": 1, "file_name": "COCO_val2014_000000000001.jpg"}],
    "annotations": [{"image_id": 1, "caption": "a man"}, {"image_id": 2, "caption": "a dog"}],
}


@pytest.mark.parametrize("content, datasets, message", [
    (STATED, {"a": [(1, "val/000000000001.jpg"), (2, "all/b.jpg")], "b": [(2, "all/b.jpg"), (3, "c.jpg")]}, None),
    (STATED, {"a": [(2, "a/b.jpg")], "b": [(2, "b/b.jpg")]}, r"2 is a/b\.jpg in dataset a, and b/b\.jpg in dataset b"),
    (STATED, {"a": [(1, "000000000002.jpg")]}, r"image 1 is COCO_val2014_0+1\.jpg in the captions, and 0+2\.jpg in"),
    (STATED, {"a": [(2, "x.jpg")], "b": [(2, "y.jpg")]}, r"image 2 is x\.jpg in dataset a, and y\.jpg in dataset b"),
    (STATED, {"a": [(3, "c.jpg")]}, "none of the captions belongs to .* image .their ids are of other images"),
    ({"a.jpg": ["a man", "a dog"]}, {"a": [(1, "a.jpg")]}, "caption without image id: 2"),
])  # fmt: skip
def test_captions_are_given_to_no_other_images(tmp_path, content, datasets, message):
    captioner = recorded(written(tmp_path, "stated.json", content))
    with pytest.raises(FatalError, match=message) if message else nullcontext():
        captioner.require_fit(datasets)


def test_files_of_captions_that_number_different_images_alike_are_refused(tmp_path):
    train, val = ({**STATED, "images": [{"id": 1, "file_name": f"{split}_1.jpg"}]} for split in ("train", "val"))
    both = recorded(written(tmp_path, "train.json", train), written(tmp_path, "val.json", val))
    with pytest.raises(FatalError, match=r"image 1 is val_1\.jpg in the captions, and train_1\.jpg in dataset a"):
        both.require_fit({"a": [(1, "train_1.jpg")]})


def test_one_photograph_may_lie_in_two_datasets_by_cocos_two_names(tmp_path):
    new, old = "data/train2017/000000000001.jpg", "data/train2014/COCO_train2014_000000000001.jpg"
    captioner = recorded(written(tmp_path, "stated.json", {**STATED, "images": [{"id": 1, "file_name": old}]}))
    captioner.require_fit({"coco17": [(1, new)], "vcoco": [(1, old)]})
