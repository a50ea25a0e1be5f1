"""Exports can be imported again: no data that a format can hold is lost, and the rest is counted."""

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.mask import decode
from run_builder import TWO_PEOPLE, RunBuilder, box, pair, relation, relations
from toy_store import rewrite

from pipeline.data.datasets.record_index import open_source
from pipeline.data.datasets.source import DataSource
from pipeline.interop.annotation_converter import convert_annotations
from pipeline.interop.export_run import Exported, export_run
from pipeline.interop.import_file import ImportStep, import_file
from pipeline.interop.run_tables import tables_by_name
from storage.errors import FatalError
from storage.local_store import LocalStore
from storage.runs import STARTED, Run
from storage.tables import IMAGES
from tagger.box import Box
from tagger.candidates.cooccurrence import cooccurrence_candidates, read_cooccurrence
from tagger.parsing.parser import load_parser, parse_captions

TEXTS = [
    "a man riding a brown horse on a beach", "two men and a dog next to a horse",
    "The leg of a man sitting at a table", "a horse ridden by a man in a suit",
]  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run with all steps and two images. Its first box is a crowd, so indices differ with and without crowds."""
    book = RunBuilder(Run(LocalStore(tmp_path / "store"), "ours"), tmp_path)
    boxes = [
        box("person", 0, 0, 5, 5, crowd=True),
        box("person", 12.8, 57.61, 53.05, 138.01, source_id=4),
        box("horse", 1, 2, 30, 40, source_id=5),
    ]
    plain = {"dataset": "coco2017", "split": "train", "digest": "d", "width": 200, "height": 300, "relations": []}
    images = [
        {**plain, "image_id": 1, "uri": "train2017/000000000001.jpg", "boxes": boxes},
        {**plain, "image_id": 2, "uri": "train2017/000000000002.jpg", "boxes": []},
    ]
    captions = [
        {"text": text, "draw": draw, "seed": 7, "log_probability": -1.5, "source": "blip"}
        for draw, text in enumerate(TEXTS)
    ]
    found = [
        asdict(triplet) | {"caption": number}
        for number, triplets in enumerate(parse_captions(TEXTS, load_parser(), implied=True))
        for triplet in triplets
    ]
    labels = [relation(1, "on", 2, 0.25), relation(1, "ride", 2, 0.75), relation(0, "near", 2, 0.5)]
    prior = {"mention": 0, "prior": 0.5, "support": 1}
    proposed = [pair(subject, predicate, 2, 2, **prior) for predicate in ("ride", "on") for subject in (1, 0)]
    none = {"image_id": 2}
    book.add("ingest", "coco2017/0000", images)
    book.add("caption", "coco2017/0000", [{"image_id": 1, "captions": captions}, none | {"captions": []}])
    book.add("parse", "coco2017/0000", [{"image_id": 1, "triplets": found}, none | {"triplets": []}])
    candidates = [{"image_id": 1, "pairs": proposed}, none | {"pairs": []}]
    book.add(
        "tag", "coco2017/0000", [{"image_id": 1, "relations": labels}, none | {"relations": []}], candidates=candidates
    )
    return book.run


def exported(run: Run, form: Any, folder: Path, threshold: float = 0.0, all_scores: bool = False) -> Exported:
    return export_run(run, form, folder, threshold, all_scores)


def read(path: Path) -> Any:
    return json.loads(path.read_bytes())


def test_labels_as_the_authors_write_them(run, tmp_path):
    made = exported(run, "official", tmp_path / "out", threshold=0.3)
    assert made.files == [
        f"coco2017/{name}.json" for name in ("candidates", "captions", "keep_names_freq", "labels", "scene_graphs")
    ]
    assert read(tmp_path / "out/coco2017/labels.json") == [
        {
            "image_id": 1, "dataset": "coco2017", "data_split": "train2017",
            "objects": [
                {"object_id": 10000000, "x": 12.8, "y": 57.61, "w": 53.05, "h": 138.01, "names": "person"},
                {"object_id": 10000001, "x": 1.0, "y": 2.0, "w": 30.0, "h": 40.0, "names": "horse"},
            ],
            "relationships": [
                {
                    "relationship_id": 10000000, "predicate": "ride", "subject_id": 10000000, "object_id": 10000001,
                    "confidence": 0.75,
                }
            ],
        },
        {"image_id": 2, "dataset": "coco2017", "data_split": "train2017", "objects": [], "relationships": []},
    ]  # fmt: skip
    assert read(tmp_path / "out/coco2017/candidates.json") == {
        "1": [[[[0, 1], [0, 1]], ["ride", "on"]]],
        "2": [[[], []]],
    }
    assert read(tmp_path / "out/coco2017/captions.json") == {"1": TEXTS, "2": []}
    assert read(tmp_path / "out/coco2017/keep_names_freq.json") == {
        "relationship_names": ["ride"], "object_names": ["person", "horse"], "relationship_freq": {"ride": 1},
        "object_freq": {"horse": 1, "person": 1},
    }  # fmt: skip
    assert made.lost["relation scored below 0.3"] == 1
    assert made.lost["crowd box"] == made.lost["relation of a crowd box"] == 1
    name = "file name (images are named by their ids)"
    assert name not in made.lost and exported(run, "official_vg", tmp_path / "vg").lost[name] == 2


def test_the_authors_frequencies_go_through_whole(shared, tmp_path):
    file = shared / "data/rlipv2_priors/RLIPv2_train2017_threshold20_Tagger2_Noi24_20e_keep_names_freq.json"
    theirs = Run(LocalStore(tmp_path / "store"), "theirs")
    assert not import_file(file, theirs, "coco2017").noted
    exported(theirs, "official", tmp_path / "out")
    assert list(read(tmp_path / "out/coco2017/keep_names_freq.json").items()) == list(read(file).items())


def test_graphs_have_entities_with_token_bounds_and_modifiers(run, tmp_path):
    exported(run, "official", tmp_path / "out")
    first, second, *_ = read(tmp_path / "out/coco2017/scene_graphs.json")["1"]
    horse = next(entity for entity in first["entities"] if entity["lemma_head"] == "horse")
    assert (horse["span"], horse["head"], horse["span_bounds"]) == ("a brown horse", "horse", [3, 6])
    assert {"dep": "amod", "span": "brown", "lemma_span": "brown"} in horse["modifiers"]
    assert [entity["lemma_head"] for entity in second["entities"]].count("man") == 1
    assert all(r["subject"] < len(first["entities"]) for r in first["relations"])


@pytest.mark.parametrize("name", ["labels", "captions", "scene_graphs", "candidates", "keep_names_freq"])
def test_files_come_in_and_go_out_the_same(run, tmp_path, name):
    exported(run, "official", tmp_path / "out")
    again = Run(run.store, "again")
    for file in dict.fromkeys(["captions", name]) if name == "scene_graphs" else [name]:
        made = import_file(tmp_path / f"out/coco2017/{file}.json", again, "coco2017")
    assert not made.noted
    exported(again, "official", tmp_path / "again")
    assert (tmp_path / f"again/coco2017/{name}.json").read_bytes() == (
        tmp_path / f"out/coco2017/{name}.json"
    ).read_bytes()


def test_the_authors_file_of_hico_det_names_images_by_file(tmp_path):
    name = "HICO_train2015_00000001.jpg"
    boxes = [{"object_id": 50_000_000, "x": 1.0, "y": 2.0, "w": 3.0, "h": 4.0, "names": "person"}]
    content = [{"image_id": name, "dataset": "hico", "data_split": "train", "objects": boxes, "relationships": []}]
    (tmp_path / "hico.json").write_text(json.dumps(content))
    theirs = Run(LocalStore(tmp_path / "store"), "theirs")
    import_file(tmp_path / "hico.json", theirs)
    made = exported(theirs, "official", tmp_path / "out")
    assert read(tmp_path / "out/hico/labels.json") == content
    assert "file name (images are named by their ids)" not in made.lost


def test_images_in_the_layout_of_hico_det_keep_ids_that_their_names_lack(book, tmp_path):
    names = {5: "a.jpg", 6: "9.jpg", 7: "HICO_test2015_00000007.jpg"}
    book.add("ingest", "h/0000", [book.image(key, [], dataset="h") | {"uri": name} for key, name in names.items()])
    book.run.note("recipe", {"data": {"sources": [{"name": "h", "format": "hico_det"}]}})
    made = exported(book.run, "official", tmp_path / "out")
    assert [each["image_id"] for each in read(tmp_path / "out/h/labels.json")] == [5, 6, names[7]]
    assert made.lost["file name (images are named by their ids)"] == 2


@pytest.mark.parametrize("form", ["official", "official_vg", "coco", "hico_det", "hf", "cooccurrence"])
def test_only_labels_that_the_run_keeps_are_exported(run, tmp_path, form):
    run.note("recipe", {"shard": {"threshold": 0.6}})
    made = exported(run, form, tmp_path / "out")
    assert made.labels == "kept, score ≥ 0.6"
    assert made.lost["relation that the run does not keep"] == 2
    assert made.wrote.get("relations", made.wrote.get("relations counted")) == 1
    rows = [pa.parquet.read_table(path).to_pylist() for path in (tmp_path / "out").rglob("*.parquet")]
    content = "".join(path.read_text() for path in (tmp_path / "out").rglob("*.json")) + str(rows)
    assert "ride" in content and "near" not in content


@pytest.mark.parametrize("form", ["official", "hf"])
def test_every_score_is_exported_on_request(run, tmp_path, form):
    run.note("recipe", {"shard": {"threshold": 0.6}})
    made = exported(run, form, tmp_path / "out", all_scores=True)
    assert made.labels == "all scores" and "relation that the run does not keep" not in made.lost
    assert made.wrote["relations"] == 3 - made.lost.get("relation of a crowd box", 0)


@pytest.mark.parametrize("form", ["official", "coco", "hf", "fiftyone", "cooccurrence"])
def test_a_dataset_that_was_never_tagged_exports_its_ground_truth(book, tmp_path, form):
    book.add("ingest", "toys/0000", [book.image(1, TWO_PEOPLE)])
    book.add("ingest", "vg/0000", [book.image(2, TWO_PEOPLE, [(0, "lead", 2)], dataset="vg")])
    book.add("tag", "toys/0000", [relations(1, (0, "ride", 2, 0.9))], candidates=[])
    made = exported(book.run, form, tmp_path / "out")
    assert made.wrote.get("relations", made.wrote.get("relations counted")) == 2


@pytest.mark.parametrize("form", ["hico_det", "coco", "official", "hf"])
def test_ground_truth_of_images_that_wait_for_labels_is_not_exported_among_labels(book, tmp_path, form):
    book.add("ingest", "toys/0000", [book.image(1, TWO_PEOPLE)])
    book.add("tag", "toys/0000", [relations(1, (0, "ride", 2, 0.9))], candidates=[])
    book.add("ingest", "toys/0001", [book.image(2, TWO_PEOPLE, [(0, "lead", 2)])])
    book.add("ingest", "new/0000", [book.image(number, TWO_PEOPLE, [(0, "lead", 2)], "new") for number in (3, 4)])
    assert exported(book.run, form, tmp_path / "before").wrote["relations"] == 3, "the run does not label `new`"
    book.run.note("recipe", {"data": {"label": ["toys", "new"]}})
    made = exported(book.run, form, tmp_path / "out")
    assert made.wrote["relations"] == 1
    assert made.lost["image that the run has not labelled"] == 3


@pytest.mark.parametrize("form", ["hico_det", "coco"])
def test_a_first_execution_on_its_way_exports_what_its_recipe_keeps(run, tmp_path, form):
    run.note(STARTED, {"shard": {"threshold": 0.6}})
    assert exported(run, form, tmp_path / "out").wrote["relations"] == 1
    run.note("recipe", {"shard": {"threshold": 0.1}})
    assert exported(run, form, tmp_path / "completed").wrote["relations"] > 1


def test_a_table_that_labels_are_made_from_does_not_know_the_test_set(book, tmp_path):
    for dataset, predicate in (("vg", "lead"), ("test", "feed")):
        rows = [book.image(1, TWO_PEOPLE, [(0, predicate, 2)], dataset=dataset)]
        book.add("ingest", f"{dataset}/0000", rows)
    book.run.note("recipe", {"data": {"test": ["test"]}})
    exported(book.run, "cooccurrence", tmp_path / "out")
    assert read_cooccurrence(tmp_path / "out/cooccurrence.json") == {"person": {"horse": ["lead"]}}


def test_labels_that_reviewers_added_are_not_taken_for_kept_ones_of_the_tagger(book, tmp_path):
    book.add("ingest", "toys/0000", [book.image(1, TWO_PEOPLE)])
    book.add("tag", "toys/0000", [relations(1, (0, "ride", 2, 0.9), (1, "ride", 2, 0.1))], candidates=[])
    added = {"image_id": 1, "subject": 1, "predicate": "lead", "object": 2, "holds": True}
    book.add("shard:pseudo", "toys/0000", [], settings={"threshold": 0.5}, overrides=[added])
    book.run.note("recipe", {"shard": {"threshold": 0.5, "confidence": "score"}})
    made = exported(book.run, "coco", tmp_path / "out")
    assert (made.wrote["relations"], made.lost["relation that the run does not keep"]) == (2, 1)


@pytest.mark.parametrize("form", ["official", "csv"])
def test_a_score_that_is_shown_as_the_threshold_is_exported(book, tmp_path, form):
    book.add("ingest", "toys/0000", [book.image(1, TWO_PEOPLE)])
    book.add("tag", "toys/0000", [relations(1, (0, "ride", 2, 0.9))], candidates=[])
    assert not exported(book.run, form, tmp_path / "out", 0.9, all_scores=True).lost.get("relation scored below 0.9")


@pytest.mark.parametrize("form", ["official_vg", "hico_det", "cooccurrence"])
def test_a_format_without_scores_takes_no_rejected_labels(run, tmp_path, form):
    with pytest.raises(FatalError, match="has no scores"):
        exported(run, form, tmp_path / "out", all_scores=True)
    assert not (tmp_path / "out").exists()


def test_pycocotools_reads_boxes_and_captions_and_relations_name_annotations(run, tmp_path):
    exported(run, "coco", tmp_path / "out")
    captions, instances = (COCO(tmp_path / f"out/coco2017/{name}.json") for name in ("captions", "instances"))
    assert [each["caption"] for each in captions.loadAnns(captions.getAnnIds(imgIds=[1]))] == TEXTS
    first = instances.dataset["rel_annotations"][0]
    ends = instances.loadAnns([first["subject_id"], first["object_id"]])
    names = [instances.cats[end["category_id"]]["name"] for end in ends]
    predicate = instances.dataset["rel_categories"][first["predicate_id"]]["name"]
    assert (names, predicate, first["score"]) == (["person", "horse"], "ride", 0.75)
    assert [box["segmentation"] for box in ends] == [[], []], "CVAT and pycocotools' showAnns take no box without it"


def test_a_training_and_a_test_set_number_their_names_alike(book, tmp_path):
    """SGG-Benchmark compares places in these lists."""
    cup, jar, pen = (
        (name, *place) for name, place in (("cup", (1, 1, 9, 9)), ("jar", (20, 1, 9, 9)), ("pen", (40, 1, 9, 9)))
    )
    formats = {"train": "coco", "test": "coco", "vg": "visual_genome"}
    book.add("ingest", "train/0000", [book.image(1, [cup, jar], [(0, "on", 1)], "train")])
    book.add("ingest", "test/0000", [book.image(1, [jar, pen], [(0, "near", 1)], "test")])
    book.add("ingest", "vg/0000", [book.image(1, [pen, cup], [(0, "in", 1)], "vg")])
    sources = [{"name": name, "format": form, "annotations": "gone.json"} for name, form in formats.items()]
    book.run.note("recipe", {"data": {"sources": sources}})
    exported(book.run, "coco", tmp_path / "out")
    lists = {
        name: [[each["name"] for each in found[kind]] for kind in ("categories", "rel_categories")]
        for name in formats
        if (found := read(tmp_path / f"out/{name}/instances.json"))
    }
    assert lists["train"] == lists["test"] == [["cup", "jar", "pen"], ["near", "on"]]
    assert lists["vg"] == [["cup", "pen"], ["in"]]


def test_objects365_is_found_below_the_folders_of_its_splits(book, tmp_path):
    row = book.image(900461, [("cup", 1, 1, 9, 9)], dataset="o") | {"uri": "patch16/objects365_v2_00900461.jpg"}
    coco = book.image(139, [("cup", 1, 1, 9, 9)], dataset="c") | {"uri": "000000000139.jpg"}
    book.add("ingest", "o/0000", [row])
    book.add("ingest", "c/0000", [coco])
    book.run.note(
        "recipe", {"data": {"sources": [{"name": "o", "format": "objects365"}, {"name": "c", "format": "coco"}]}}
    )
    made = exported(book.run, "official", tmp_path / "out")
    paths = read(tmp_path / "out/o/image_id_to_filepath.json")
    assert paths == {"900461": "train/patch16/objects365_v2_00900461.jpg"}
    assert "file name (images are named by their ids)" not in made.lost


def test_what_no_table_holds_comes_from_the_file_that_was_ingested(run, tmp_path):
    header = {"info": {"year": 2017}, "licenses": [{"id": 3, "name": "BY"}, {"id": 4, "name": "BY-SA"}]}
    image = {"id": 1, "file_name": "another.jpg", "width": 1, "height": 1, "coco_url": "http://a/1.jpg", "license": 3}
    image["neg_category_ids"] = [77]
    box = {"id": 5, "image_id": 1, "category_id": 77, "bbox": [1, 2, 30, 40], "iscrowd": 0, "area": 7.5}
    horse = {"id": 77, "name": "horse", "supercategory": "animal"}
    boxes = [box, {"id": 4, "score": math.nan}]
    given = {**header, "images": [image], "annotations": boxes, "categories": [horse]}
    (tmp_path / "instances.json").write_text(json.dumps(given))
    source = {"name": "coco2017", "format": "coco", "annotations": "instances.json"}
    run.note("recipe", {"data": {"root": str(tmp_path), "sources": [source]}})
    made = exported(run, "coco", tmp_path / "out", all_scores=True)
    instances, captions = (read(tmp_path / f"out/coco2017/{name}.json") for name in ("instances", "captions"))
    assert all(written[name] == header[name] for written in (instances, captions) for name in header)
    assert instances["images"][0] == {
        "id": 1, "file_name": "train2017/000000000001.jpg", "width": 200, "height": 300, "coco_url": "http://a/1.jpg",
        "license": 3,
    }  # fmt: skip
    found = {each["name"]: each for each in instances["categories"]}
    assert found["horse"]["supercategory"] == "animal" and found["horse"]["id"] != 77
    assert {each["id"]: each["area"] for each in instances["annotations"]}[5] == 7.5
    assert made.lost["field images.neg_category_ids, since categories have other ids here"] == 1
    assert made.lost["further fields that JSON can't hold"] == 1
    elsewhere = "box that the annotation file now places elsewhere: its mask and further fields"
    assert elsewhere not in made.lost
    (tmp_path / "instances.json").write_text(json.dumps({**given, "annotations": [box | {"id": 4}, box]}))
    made = exported(run, "coco", tmp_path / "changed", all_scores=True)
    areas = {each["id"]: each["area"] for each in read(tmp_path / "changed/coco2017/instances.json")["annotations"]}
    assert areas[5] == 7.5 and areas[4] == pytest.approx(53.05 * 138.01, rel=1e-6) and made.lost[elsewhere] == 1
    (tmp_path / "instances.json").unlink()
    gone = exported(run, "coco", tmp_path / "gone", all_scores=True)
    assert [reason for reason in gone.lost if "info, licenses" in reason and "is gone" in reason]


def test_a_run_of_segments_is_exported_with_their_masks(run, tmp_path):
    segment = {"id": 5, "category_id": 77, "bbox": [1, 2, 30, 40], "area": 1200}
    given = {
        "images": [{"id": 1, "file_name": "1.jpg"}],
        "annotations": [{"image_id": 1, "file_name": "1.png", "segments_info": [segment]}],
        "categories": [{"id": 77, "name": "horse"}],
    }
    (tmp_path / "panoptic.json").write_text(json.dumps(given))
    source = {"name": "coco2017", "format": "coco_panoptic", "annotations": "panoptic.json"}
    run.note("recipe", {"data": {"root": str(tmp_path), "sources": [source]}})
    pixels = np.zeros((300, 200, 3), np.uint8)
    pixels[2:42, 1:31, 0] = 5
    (tmp_path / "png").mkdir()
    Image.fromarray(pixels).save(tmp_path / "png/1.png")
    made = export_run(run, "coco", tmp_path / "out", masks=tmp_path / "png")
    masks = [each.get("segmentation") for each in read(tmp_path / "out/coco2017/instances.json")["annotations"]]
    assert masks[:2] == [[], []] and (decode(masks[2]) * 5 == pixels[..., 0]).all()
    with pytest.raises(FatalError, match="--masks: hf has no masks"):
        export_run(run, "hf", tmp_path / "hf", masks=tmp_path / "png")
    unread = "mask in a PNG, read with --masks"
    assert unread not in made.lost and exported(run, "coco", tmp_path / "bare").lost[unread] == 1


def test_boxes_that_share_an_id_or_have_none_keep_their_own_masks(tmp_path):
    boxes = [
        {"image_id": 1, "category_id": 1, "bbox": [at, at, 4, 4], "segmentation": [[at, at, at + 4, at, at, at + 4]]}
        for at in range(0, 16, 4)
    ]
    boxes = [boxes[0], boxes[1], boxes[2] | {"id": 3}, boxes[3] | {"id": 3}]
    image, category = {"id": 1, "file_name": "1.jpg", "width": 50, "height": 50}, {"id": 1, "name": "cup"}
    given = {"images": [image], "annotations": boxes, "categories": [category]}
    (tmp_path / "instances.json").write_text(json.dumps(given))
    convert_annotations("coco", tmp_path / "instances.json", "coco", tmp_path / "out")
    again = read(tmp_path / "out/instances.json")["annotations"]
    assert [each["segmentation"] for each in again] == [each["segmentation"] for each in boxes]


def test_vg_has_whole_pixels_and_no_confidence(run, tmp_path):
    made = exported(run, "official_vg", tmp_path / "out")
    first = read(tmp_path / "out/coco2017.json")[0]
    assert first["objects"][0] == {
        "object_id": 1, "x": 13, "y": 58, "w": 53, "h": 138, "names": "person", "synsets": [],
    }  # fmt: skip
    assert list(first["relationships"][0]) == ["relationship_id", "predicate", "synsets", "subject_id", "object_id"]
    assert made.lost["fraction of a pixel"] == 4
    again = Run(run.store, "again")
    import_file(tmp_path / "out/coco2017.json", again)
    exported(again, "official_vg", tmp_path / "again")
    assert read(tmp_path / "again/vg.json") == read(tmp_path / "out/coco2017.json")


def test_coco_and_hico_are_read_by_our_own_readers(run, tmp_path):
    exported(run, "coco", tmp_path / "coco")
    exported(run, "hico_det", tmp_path / "hico_det")
    coco = tmp_path / "coco/coco2017"
    hico = tmp_path / "hico_det/coco2017"
    sources = (
        DataSource(name="a", format="coco", images=tmp_path, annotations=coco / "instances.json"),
        DataSource(name="b", format="hico_det", images=tmp_path, annotations=hico / "annotations.json",
               verbs=hico / "verbs.json", objects=hico / "objects.json"),
    )  # fmt: skip
    (tmp_path / "train2017").mkdir()
    Image.new("RGB", (200, 300)).save(tmp_path / "train2017/000000000001.jpg")
    for source in sources:
        first, second = open_source(source).read()
        usable = [place for place in first.boxes if not place.crowd]
        assert [(b.category, round(b.x, 2), round(b.h, 2)) for b in usable] == [
            ("person", 12.8, 138.01),
            ("horse", 1, 40),
        ]
        stated = [
            (first.boxes[r.subject].category, r.predicate, first.boxes[r.object].category) for r in first.relations
        ]
        assert ("person", "ride", "horse") in stated
        assert second.boxes == ()


def test_parquet_copies_every_table_whole(run, tmp_path):
    made = exported(run, "parquet", tmp_path / "out")
    names = ("candidates", "captions", "images", "labels", "relations", "triplets")
    assert made.files == [f"{name}.parquet" for name in names]
    assert made.lost == {}
    table = pa.parquet.read_table(tmp_path / "out/relations.parquet")
    [artifact] = run.artifacts("tag").values()
    assert table.drop_columns(["partition"]).equals(artifact.table("relations"))
    assert table["partition"].to_pylist() == ["coco2017/0000"] * 2


def test_parquet_has_every_table_that_a_query_has_and_no_threshold(labelled, tmp_path):
    for variant in ("pseudo", "naive"):
        labelled.add(f"shard:{variant}", "toys/0000", [], overrides=[])
    exported(labelled.run, "parquet", tmp_path / "out")
    written = {path.stem: pa.parquet.read_table(path) for path in (tmp_path / "out").iterdir()}
    assert written.keys() - {"labels"} == tables_by_name(labelled.run).keys()
    assert written.keys() >= {"rejected", "overrides_naive", "shards_pseudo"}
    assert written["rejected"].to_pylist()[0]["reason"] == "truncated"
    with pytest.raises(FatalError, match="--threshold: parquet has every table as it is"):
        exported(labelled.run, "parquet", tmp_path / "above", threshold=0.5)


def test_csv_has_a_row_for_each_kept_label(run, tmp_path):
    run.note("recipe", {"shard": {"threshold": 0.4}})
    exported(run, "csv", tmp_path / "kept")
    everything = exported(run, "csv", tmp_path / "all", all_scores=True)
    kept, scored = (pa.csv.read_csv(tmp_path / f"{name}/labels.csv").to_pylist() for name in ("kept", "all"))
    assert [(row["predicate"], row["kept"]) for row in kept] == [("ride", True), ("near", True)]
    assert [row["kept"] for row in scored] == [True, True, False] and everything.wrote == {"labels": 3}
    assert (kept[0]["subject_category"], kept[0]["object_h"], kept[0]["caption"]) == ("person", 40.0, TEXTS[0])
    run.note("recipe", {"shard": {"confidence": "calibrated", "calibration": {"": [1.0, -9.0]}, "threshold": 0}})
    assert exported(run, "csv", tmp_path / "above", threshold=0.4, all_scores=True).wrote == {"labels": 2}


def test_labels_of_earlier_images_are_refused(run, tmp_path):
    [tagged] = run.artifacts("tag").values()
    rewrite(tagged, terms=tagged.manifest.terms | {"inputs": {"images": ["0" * 64]}})
    for form in ("csv", "coco", "official"):
        with pytest.raises(FatalError, match="run stage tag again"):
            exported(run, form, tmp_path / form)


def test_hugging_face_rows_join_captions_boxes_and_relations(run, tmp_path):
    exported(run, "hf", tmp_path / "out")
    first, second = pa.parquet.read_table(tmp_path / "out/data/coco2017/train.parquet").to_pylist()
    assert first["captions"] == TEXTS
    assert [first["objects"][r["subject"]]["category"] for r in first["relations"]] == ["person", "person", "person"]
    assert first["relations"][0]["score"] == 0.75
    assert (second["objects"], second["relations"]) == ([], [])
    assert "path: data/coco2017/train.parquet" in (tmp_path / "out/README.md").read_text()


def test_an_export_replaces_nothing_and_leaves_nothing_half_done(run, tmp_path):
    exported(run, "official_vg", tmp_path / "out")
    with pytest.raises(FatalError, match="already exists"):
        exported(run, "official_vg", tmp_path / "out")
    only = Run(run.store, "captions-only")
    only.record("caption", run.stage("caption"), run.keys("caption"))
    with pytest.raises(FatalError, match="have nothing for coco"):
        exported(only, "coco", tmp_path / "coco")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "store"]


def test_predicates_between_categories_are_what_candidates_are_taken_from(tmp_path):
    run = Run(LocalStore(tmp_path / "store"), "genome")
    facts = [
        ("man", "riding", "brown horse"), ("boy", "riding", "pony"), ("woman", "on", "horse"), ("sky", "over", "cow"),
    ]  # fmt: skip
    boxes = [box(name, 1, 2, 30, 40) for subject, _, object_ in facts for name in (subject, object_)]
    relations = [{"subject": 2 * i, "predicate": facts[i][1], "object": 2 * i + 1} for i in range(len(facts))]
    image = {"dataset": "vg", "split": "train", "digest": "d", "width": 9, "height": 9, "uri": "7.jpg", "image_id": 7}
    step = ImportStep(run, "ingest", "images", IMAGES)
    step.put("vg/0000", [{**image, "boxes": boxes, "relations": relations}], [])
    step.record()
    made = export_run(run, "cooccurrence", tmp_path / "out")
    assert made.files == ["cooccurrence.json"]
    table = read_cooccurrence(tmp_path / "out/cooccurrence.json")
    assert table == {"person": {"horse": ["riding", "on"]}}
    assert made.lost["relation of a name that matches no category"] == 1
    boxes = [Box("person", 0, 0, 5, 5), Box("horse", 1, 1, 9, 9)]
    pairs = cooccurrence_candidates([], boxes, table=table).pairs
    assert [(pair.subject, pair.object, pair.predicate) for pair in pairs] == [(0, 1, "riding"), (0, 1, "on")]
