"""Imports of the authors' files are complete. Bad entries are counted and quarantined, and none crashes the import."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image

from pipeline.interop.import_file import ImageFiles, ImportResult, import_file, read_scene_graph, stream_scene_graphs
from pipeline.interop.official_graphs import read_captions, read_graphs, read_groups
from pipeline.interop.official_labels import LabelledImage, read_element
from pipeline.labels.label_rows import flat_labels
from storage.errors import FatalError
from storage.local_store import LocalStore
from storage.runs import Run

BOX = {"object_id": 10_000_000, "x": 412.8, "y": 157.61, "w": 53.05, "h": 138.01, "names": "person"}
HORSE = {"object_id": 10_000_001, "x": 1.0, "y": 2.0, "w": 30.0, "h": 40.0, "names": "horse"}
RIDING = {
    "relationship_id": 10_000_000, "predicate": "riding", "subject_id": 10_000_000, "object_id": 10_000_001,
    "confidence": 0.31,
}  # fmt: skip


def element(**values: Any) -> dict[str, Any]:
    plain = {"image_id": 139, "dataset": "coco2017", "data_split": "val2017"}
    return {**plain, "objects": [BOX, HORSE], "relationships": [RIDING], **values}


def imported(tmp_path: Path, content: Any, **given: Any) -> tuple[ImportResult, Run]:
    path = tmp_path / "file.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    run = Run(LocalStore(tmp_path / "store"), "theirs")
    return import_file(path, run, **given), run


def rows(run: Run, step: str, table: str) -> list[dict[str, Any]]:
    return [row for artifact in run.artifacts(step).values() for row in artifact.table(table).to_pylist()]


def reasons(entry: dict[str, Any]) -> list[str]:
    found = read_element(entry)
    assert isinstance(found, LabelledImage)
    return [reject.reason for reject in found.rejects]


def test_labels_become_images_and_scored_relations(tmp_path):
    made, run = imported(tmp_path, [element()])
    assert (made.kind, made.images, made.steps, made.noted) == ("labels", 1, ["ingest", "tag"], {})
    [image] = rows(run, "ingest", "images")
    assert (image["dataset"], image["split"], image["uri"]) == ("coco2017", "val2017", "val2017/000000000139.jpg")
    assert [box["source_id"] for box in image["boxes"]] == [10_000_000, 10_000_001]
    [relation] = rows(run, "tag", "relations")[0]["relations"]
    assert (relation["subject"], relation["predicate"], relation["object"]) == (0, "riding", 1)
    assert relation["score"] == pytest.approx(0.31)


def test_sets_in_one_file_stay_apart_although_their_ids_collide(tmp_path):
    theirs = element(dataset="o365", data_split="train")
    made, run = imported(tmp_path, [element(), theirs, element(), {**element(), "image_id": "x"}])
    assert set(run.artifacts("ingest")) == {"coco2017/0000", "o365/0000"}
    assert made.images == 2
    assert made.noted == {"image id not an integer": 1, "image twice": 1}


def test_a_missing_set_is_visual_genome_and_its_relations_are_given(tmp_path):
    given = {name: value for name, value in RIDING.items() if name != "confidence"}
    plain = {name: value for name, value in element(relationships=[given]).items() if not name.startswith("data")}
    _, run = imported(tmp_path, [plain])
    [image] = rows(run, "ingest", "images")
    assert (image["dataset"], image["uri"]) == ("vg", "139.jpg")
    assert image["relations"] == [{"subject": 0, "predicate": "riding", "object": 1}]
    assert run.artifacts("tag") == {}


@pytest.mark.parametrize("changed, reason", [
    ({"relationships": [RIDING, {**RIDING, "confidence": 0.6}]}, "relation twice"),
    ({"relationships": [{**RIDING, "subject_id": 7}]}, "relation of unknown box"),
    ({"relationships": [{**RIDING, "object_id": 10_000_000}]}, "relation to itself (kept)"),
    ({"relationships": [{**RIDING, "confidence": float("nan")}]}, "confidence not a number from 0 to 1"),
    ({"relationships": [{**RIDING, "confidence": None}]}, "relation without confidence (kept with 1)"),
    ({"relationships": [{**RIDING, "predicate": 3}]}, "relation malformed"),
    ({"relationships": None}, "relationships malformed"),
    ({"objects": [{**BOX, "x": -5.0}, HORSE]}, "box clamped"),
    ({"objects": [{**BOX, "x": -900.0}, HORSE]}, "box empty or outside"),
    ({"objects": [{**BOX, "w": 1e300}, HORSE]}, "box malformed"),
    ({"objects": [BOX, HORSE, HORSE]}, "object id twice"),
    ({"dataset": ["coco"]}, "dataset unknown"),
])  # fmt: skip
def test_what_is_wrong_with_an_image_is_counted(changed, reason):
    assert reason in reasons(element(**changed))


def test_doubled_relations_keep_the_highest_confidence_self_pairs_stay_and_ids_may_be_names_of_files():
    itself = {**RIDING, "object_id": 10_000_000}
    found = read_element(element(image_id="139", relationships=[RIDING, {**RIDING, "confidence": 0.6}, itself]))
    hico = read_element(element(image_id="HICO_train2015_00000012.jpg", dataset="hico"))
    assert isinstance(found, LabelledImage) and isinstance(hico, LabelledImage)
    assert [(r["subject"], r["object"], r["score"]) for r in found.relations] == [(0, 1, 0.6), (0, 0, 0.31)]
    assert found.image["image_id"] == 139
    assert (hico.image["image_id"], hico.image["uri"]) == (12, "HICO_train2015_00000012.jpg")


def test_with_a_folder_of_images_sizes_are_known_and_boxes_clamped(tmp_path):
    (tmp_path / "pictures/val2017").mkdir(parents=True)
    Image.new("RGB", (440, 300)).save(tmp_path / "pictures/val2017/000000000139.jpg")
    made, run = imported(tmp_path, [element(), element(image_id=140)], files=ImageFiles(tmp_path / "pictures"))
    known, unknown = rows(run, "ingest", "images")
    assert (known["width"], known["height"], unknown["width"]) == (440, 300, None)
    assert known["boxes"][0]["x"] + known["boxes"][0]["w"] == pytest.approx(440)
    assert made.noted["box beyond the image (clamped)"] == 1
    assert sum(made.noted.values()) == 2


@pytest.mark.parametrize("folder, uri", [("", "train/patch16"), ("train", "patch16")])
def test_images_of_objects365_are_found_in_the_folder_of_their_split(tmp_path, folder, uri):
    (tmp_path / "train/patch16").mkdir(parents=True)
    Image.new("RGB", (640, 480)).save(tmp_path / "train/patch16/objects365_v2_00900461.jpg")
    (tmp_path / "paths.json").write_text('{"139": "train/patch16/objects365_v2_00900461.jpg"}')
    theirs = element(dataset="o365", data_split="train")
    _, run = imported(tmp_path, [theirs], files=ImageFiles(tmp_path / folder, tmp_path / "paths.json"))
    [image] = rows(run, "ingest", "images")
    assert (image["uri"], image["width"]) == (f"{uri}/objects365_v2_00900461.jpg", 640)


def test_an_image_is_found_by_its_name_alone(tmp_path):
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (640, 480)).save(tmp_path / "pictures/000000000139.jpg")
    made, run = imported(tmp_path, [element()], files=ImageFiles(tmp_path / "pictures"), dataset="mine")
    [image] = rows(run, "ingest", "images")
    assert (image["uri"], image["width"], image["dataset"]) == ("000000000139.jpg", 640, "mine")
    assert set(run.artifacts("ingest")) == set(run.artifacts("tag")) == {"mine/0000"}
    assert made.noted == {}


def test_a_folder_without_any_of_the_images_stops_the_import(tmp_path):
    (tmp_path / "pictures").mkdir()
    with pytest.raises(FatalError, match=r"none of its 1 images can be read in .*val2017/000000000139.jpg"):
        imported(tmp_path, [element()], files=ImageFiles(tmp_path / "pictures"))
    assert not Run(LocalStore(tmp_path / "store"), "theirs").exists


def test_a_name_of_a_set_is_no_path_and_is_not_given_to_two(tmp_path):
    with pytest.raises(FatalError, match="coco2017, o365"):
        imported(tmp_path, [element(), element(dataset="o365")], dataset="mine")
    with pytest.raises(FatalError, match="--dataset"):
        imported(tmp_path, [element()], dataset="../x")


def test_captions_and_graphs_join_the_partitions_of_the_run(tmp_path):
    _, run = imported(tmp_path, [element(), element(dataset="o365", image_id=5)])
    graph = {
        "entities": [{"span": "a man", "lemma_span": "man", "span_bounds": [0, 2]}, {"span": "a horse"}, {"span": "a"}],
        "relations": [
            {"subject": 0, "object": 1, "relation": "riding", "lemma_relation": "ride"},
            {"subject": 0, "object": 9, "relation": "on"},
        ],
    }
    made, _ = imported(tmp_path, {"139": ["a man riding a horse", 3], "5": ["a dog"], "77": ["a cat"], "b": []})
    assert made.noted == {"caption not a text": 1, "image id not an integer": 1, "image unknown to the run": 1}
    assert {p: len(a.table("captions")) for p, a in run.artifacts("caption").items()} == {
        "coco2017/0000": 1,
        "o365/0000": 1,
    }
    made, _ = imported(tmp_path, {"139": [graph]})
    assert made.noted == {"entity without a relation": 1, "relation of unknown entity": 1}
    [triplet] = rows(run, "parse", "triplets")[0]["triplets"]
    assert (triplet["subject_lemma"], triplet["predicate_lemma"], triplet["object_lemma"]) == ("man", "ride", "horse")
    assert (triplet["subject_start"], triplet["subject_end"], triplet["object_start"]) == (0, 5, -1)


@pytest.mark.parametrize("first", [
    {"139": ["a man riding a horse"], "-5": ["a dog"]}, {"139": [[[[0, 1]], ["riding"]]], "-5": [[[], []]]},
])  # fmt: skip
def test_labels_do_not_come_apart_from_what_was_imported_before(tmp_path, first):
    made, _ = imported(tmp_path, first)
    with pytest.raises(FatalError, match=r"139 would be in coco2017/0000, .* in imported/0000 .*labels first --as"):
        imported(tmp_path, [element()])
    _, run = imported(tmp_path, [element()], dataset="imported")
    assert set(run.artifacts("ingest")) == set(run.artifacts(*made.steps)) == {"imported/0000"}


def test_captions_of_one_dataset_are_not_those_of_another_with_the_same_ids(tmp_path):
    imported(tmp_path, {"139": ["a man riding a horse"]}, dataset="coco2017")
    _, run = imported(tmp_path, [element(dataset="o365"), element()])
    assert set(run.artifacts("ingest")) == {"coco2017/0000", "o365/0000"}


def test_graphs_belong_to_their_captions_if_an_earlier_one_was_rejected(tmp_path):
    ride = {
        "entities": [{"span": "a man", "span_bounds": [0, 2]}, {"span": "a horse", "span_bounds": [3, 5]}],
        "relations": [{"subject": 0, "object": 1, "relation": "riding"}],
    }
    imported(tmp_path, {"1": ["", "a man riding a horse", "a dog"]})
    made, run = imported(tmp_path, {"1": [{"entities": [], "relations": []}, ride, {**ride, "relations": []}]})
    assert made.noted == {"graph of a caption that the run lacks": 1, "entity without a relation": 2}
    [triplet] = rows(run, "parse", "triplets")[0]["triplets"]
    assert (triplet["caption"], triplet["object_start"], triplet["object_end"]) == (0, 13, 20)


def test_a_folder_of_images_is_for_labels(tmp_path):
    with pytest.raises(FatalError, match="holds captions, and --images and --paths are for labels"):
        imported(tmp_path, {"1": ["a cat"]}, files=ImageFiles(tmp_path))


def test_a_step_is_imported_once(tmp_path):
    imported(tmp_path, {"1": ["a cat"]})
    with pytest.raises(FatalError, match=r"already has a step 'caption'"):
        imported(tmp_path, {"1": ["a dog"]})


LEFT = {"object_id": 1, "x": 0.0, "y": 0.0, "w": 40.0, "h": 80.0, "names": "person"}
RIGHT = {"object_id": 2, "x": 60.0, "y": 0.0, "w": 40.0, "h": 80.0, "names": "person"}
STEED = {"object_id": 3, "x": 55.0, "y": 40.0, "w": 60.0, "h": 60.0, "names": "horse"}


def of_model(tmp_path: Path, *lines: Any) -> tuple[ImportResult, Run]:
    """Imports what a model states of one image with two people and a horse."""
    _, run = imported(tmp_path, [{"image_id": 7, "objects": [LEFT, RIGHT, STEED], "relationships": []}])
    path = tmp_path / "graphs.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return import_file(path, run), run


def test_relations_of_a_model_join_the_boxes_that_they_mean(tmp_path):
    made, run = of_model(
        tmp_path,
        {
            "file_name": "7.jpg",
            "objects": [{"name": "woman", "box": [61, 0, 99, 82]}, "a horse"],
            "relations": [
                {"subject": 0, "predicate": "is riding", "object": 1, "score": 0.7},
                {"subject": [2, 1, 41, 79], "predicate": "looking at", "object": "stallion"},
                [{"name": "man", "box": [0, 0, 40, 80]}, "next to", {"box": [60, 0, 100, 80]}],
            ],
        },
    )
    assert (made.kind, made.images, made.steps, made.noted) == ("relations", 1, ["tag"], {})
    [row] = rows(run, "tag", "relations")
    assert [(r["subject"], r["predicate"], r["object"], r["score"]) for r in row["relations"]] == [
        (1, "ride", 2, pytest.approx(0.7)), (0, "look at", 2, 1.0), (0, "next to", 1, 1.0),
    ]  # fmt: skip
    run.note("recipe", {"shard": {"confidence": "probability"}})
    [labels] = flat_labels(run)
    assert labels["kept"].to_pylist() == [True] * 3


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"subject": "man"}, "subject names several boxes"),
        ({"object": "dog"}, "object names no box"),
        ({"object": {"name": "horse", "box": [0, 0, 40, 80]}}, "object overlaps no box"),
        ({"subject": [float("nan"), 0, 40, 80]}, "subject overlaps no box"),
        ({"subject": [0, 0, 40]}, "subject malformed"),
        ({"subject": 5}, "subject malformed"),
        ({"object": [0, 0, 40, 80]}, "relation to itself"),
        ({"predicate": " "}, "relation malformed"),
        ({"score": 7}, "score not a number from 0 to 1"),
        ([[0, 0, 40, 80], "riding", "horse", 0.3], "relation malformed"),
    ],
)
def test_a_relation_that_means_no_pair_of_boxes_is_quarantined_with_its_reason(tmp_path, changed, reason):
    stated = {"subject": [0, 0, 40, 80], "predicate": "riding", "object": "horse"}
    lines = (
        {"image_id": 7, "relations": [stated, changed if isinstance(changed, list) else {**stated, **changed}]},
        {"file_name": "8.jpg"}, '{"image_id": 7, "rel',
    )  # fmt: skip
    made, run = of_model(tmp_path, *lines)
    assert made.noted == {reason: 1, "image unknown to the run": 2}
    assert len(rows(run, "tag", "relations")[0]["relations"]) == 1
    [artifact] = run.artifacts("tag").values()
    assert reason in artifact.rejected()["reason"].to_pylist()


def test_relations_of_a_model_name_files_as_windows_does(tmp_path):
    path = tmp_path / "graphs.jsonl"
    path.write_text(json.dumps({"file_name": "a\\7.jpg", "relations": []}))
    assert [image for image, _ in stream_scene_graphs(path, {"a/7.jpg": 7})] == [7]


def test_relations_of_a_model_need_boxes(tmp_path):
    (tmp_path / "graphs.jsonl").write_text('{"image_id": 7, "relations": []}')
    with pytest.raises(FatalError, match=r"has no boxes; .*run\.until=ingest"):
        import_file(tmp_path / "graphs.jsonl", Run(LocalStore(tmp_path / "store"), "theirs"))


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", "3", "[{]", '{"1": 3}', '[{"image_id": null}]', '{"x": ["a cat"]}']
)
def test_other_files_are_one_message_that_names_the_file(tmp_path, content):
    with pytest.raises(FatalError, match=r"file\.json"):
        imported(tmp_path, content)
    assert not Run(LocalStore(tmp_path / "store"), "theirs").exists


def test_captions_in_cocos_layout_are_refused_with_the_layout_that_is_read(tmp_path):
    with pytest.raises(FatalError, match=r"not an integer: 'info'; expected an object {image id: \.\.\.} of captions"):
        imported(tmp_path, {"info": {}, "annotations": [{"image_id": 1, "caption": "a cat"}]})


def test_cocos_results_are_no_labels(tmp_path):
    with pytest.raises(FatalError, match=r"neither objects nor .* captions need caption\.captioner = 'recorded'"):
        imported(tmp_path, [{"image_id": 1, "caption": "a cat"}])


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
ids = st.sampled_from([10_000_000, 10_000_001, "10000001", 7, -1, 2**70]) | anything
objects = st.fixed_dictionaries({"object_id": ids, "names": st.sampled_from(["person", ["horse"], "\ud800"]) | anything,
                                 **{side: st.floats() | anything for side in "xywh"}})  # fmt: skip
ends = {"subject_id": ids, "object_id": ids}
relationships = st.fixed_dictionaries(
    ends | {"predicate": st.text(max_size=4) | anything, "confidence": st.floats() | anything}
)
elements = st.fixed_dictionaries(
    {"image_id": ids, "objects": st.lists(objects | anything, max_size=4) | anything,
     "relationships": st.lists(relationships | anything, max_size=4) | anything},
    optional={"dataset": st.sampled_from(["coco2017", "o365", "hico"]) | anything, "data_split": anything},
)  # fmt: skip
short = settings(max_examples=60)


@short
@given(elements | anything)
def test_no_element_crashes_and_what_it_gives_holds_together(entry):
    found = read_element(entry)
    if isinstance(found, LabelledImage):
        boxes = found.image["boxes"]
        assert all(box["x"] >= 0 and box["y"] >= 0 and box["w"] > 0 and box["h"] > 0 for box in boxes)
        for relation in (*found.relations, *found.image["relations"]):
            assert 0 <= relation["subject"] < len(boxes)
            assert 0 <= relation["object"] < len(boxes)
        assert all(0 <= relation["score"] <= 1 for relation in found.relations)


@short
@given(anything, st.lists(st.fixed_dictionaries({"text": st.text(max_size=30), "draw": st.integers(0, 3)}), max_size=2))
def test_no_caption_graph_or_group_crashes(value, captions):
    graph = {
        "entities": [{"span": "a man", "span_bounds": value}, value],
        "relations": [value, {"subject": 0, "object": value}],
    }
    for given_ in (value, [value], [[value, value]], [[[value], [value]]]):
        read_captions(1, given_, "file")
        read_graphs(1, given_, captions)
        read_groups(1, given_)
    read_graphs(1, [graph], captions)
    relation = {"subject": value, "predicate": "on", "object": {"name": value, "box": value}}
    read_scene_graph(1, {"objects": [value], "relations": [value, relation, [0, "on", value]]}, [])
