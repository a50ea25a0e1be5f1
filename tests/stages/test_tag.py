"""Stage `tag` on real files: what stops it, what goes to quarantine, and what its rows hold."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from golden.stage_cases import PICTURES, recorded, rows_of, stages, tagger as made_tagger
from pydantic import ValidationError
from run_builder import TWO_PEOPLE, RunBuilder, artifact, captions, triplets

from models.rlip import RLIP
from models.weights import load, save
from pipeline.runtime.stage import Inputs
from pipeline.stages.tag import TagSettings, TagStage, open_candidates
from pipeline.stages.verify import VerifySettings
from pipeline.training.settings import fold_of
from storage.artifact import Artifact
from storage.digests import digest_file
from storage.errors import FatalError
from tagger.box import Box
from tagger.parsing.parser import load_parser, parse_captions
from tests.training.conftest import ignore

FOLDERS = stages()["tag"].image_folders


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return made_tagger(tmp_path / "weights")


def opened(weights: Path, **settings: object) -> TagStage:
    stage = TagStage(TagSettings(**{"floor": 0.0} | settings), FOLDERS)
    stage.open(Inputs({"tagger": (Artifact(weights),)}))
    return stage


def golden_inputs(folder: Path) -> Inputs:
    """The golden images and their triplets, but for the image that ingest rejects."""
    rows = {
        t: [r for r in recorded(s)["rows"] if r["image_id"] != 3]
        for t, s in (("images", "ingest"), ("triplets", "parse"))
    }
    made = artifact(folder, **rows)
    return Inputs({"images": (made,), "triplets": (made,)}, partition="golden/0000")


@pytest.fixture
def inputs(tmp_path: Path) -> Inputs:
    return golden_inputs(tmp_path / "inputs")


def test_rows_say_where_a_label_comes_from_and_what_it_means(tmp_path):
    rows = rows_of(TagStage(TagSettings(floor=0.0), FOLDERS), tmp_path)
    triplets = {row["image_id"]: row["triplets"] for row in recorded("parse")["rows"]}
    labels = [(row["image_id"], relation) for row in rows for relation in row["relations"]]
    assert labels and len({row["tagger"] for row in rows}) == 1 and len(rows[0]["tagger"]) == 64
    for image_id, relation in labels:
        assert relation["caption"] == triplets[image_id][relation["triplet"]]["caption"]
        assert 0 < relation["calibrated"] < 1 and 0 <= relation["posterior"] <= 1
        assert relation["calibrated"] != relation["score"]


def test_each_image_is_labelled_by_the_tagger_that_has_not_seen_it(weights, inputs, tmp_path):
    taggers = [weights, *(made_tagger(tmp_path / f"fold{fold}") for fold in (1, 2))]
    for fold, folder in enumerate(taggers):
        network = load(folder / "model.safetensors", folder)
        with torch.no_grad():
            next(network.parameters()).add_(fold)
        save(network, folder / "model.safetensors")
    stage = TagStage(TagSettings(floor=0.0), FOLDERS)
    stage.open(Inputs({"tagger": tuple(map(Artifact, taggers))}))
    digests = [digest_file(folder / "model.safetensors") for folder in taggers]
    found = {row["image_id"]: row["tagger"] for row in stage.run(inputs, tmp_path, ignore).table.to_pylist()}
    datasets = {row["image_id"]: row["dataset"] for row in inputs.table("images").to_pylist()}
    assert found == {image: digests[fold_of(datasets[image], image, 3)] for image in found}
    assert len(set(found.values())) > 1


def test_captions_of_boxes_are_about_these(book: RunBuilder, tmp_path: Path) -> None:
    stated = captions(1, "a man rides a horse", "a man feeds a horse", "a man pats a horse")
    for caption, boxes in zip(stated["captions"], (None, [1], [0, 2]), strict=True):
        caption["boxes"] = boxes
    parsed = triplets(1, *((n, "man", verb, "horse") for n, verb in enumerate(("ride", "feed", "pat"))))
    made = artifact(tmp_path / "read", images=[book.image(1, TWO_PEOPLE)], captions=[stated], triplets=[parsed])
    stage = TagStage(TagSettings(method="naive"), {"toys": book.pictures / "toys"})
    stage.open(Inputs())
    (row,) = stage.run(Inputs(dict.fromkeys(stage.reads, (made,))), tmp_path, ignore).table.to_pylist()
    assert [(r["subject"], r["predicate"]) for r in row["relations"]] == [
        (0, "ride"), (1, "ride"), (1, "feed"), (0, "pat"),
    ]  # fmt: skip


@pytest.mark.parametrize("stated", [(), ((0, "man", "ride", "horse"), (3, "man", "feed", "horse"))])
def test_a_table_labels_without_a_caption(book: RunBuilder, tmp_path: Path, stated: tuple[Any, ...]) -> None:
    table = tmp_path / "table.json"
    table.write_text(json.dumps({"person": {"horse": ["near"]}}))
    made = artifact(tmp_path / "read", images=[book.image(1, TWO_PEOPLE)], captions=[], triplets=[triplets(1, *stated)])
    stage = TagStage(TagSettings(method="naive", cooccurrence=table), {"toys": book.pictures / "toys"})
    stage.open(Inputs())
    (row,) = stage.run(Inputs(dict.fromkeys(stage.reads, (made,))), tmp_path, ignore).table.to_pylist()
    assert row["relations"]
    assert {(r["proposed"], r["triplet"], r["caption"]) for r in row["relations"]} == {(False, -1, -1)}


def test_an_unreadable_image_goes_to_quarantine(weights, inputs, tmp_path):
    stage = opened(weights)
    whole = stage.run(inputs, tmp_path, ignore).table.num_rows
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for path in PICTURES.glob("*.*"):
        (pictures / path.name).write_bytes(path.read_bytes()[: 300 if path.suffix in (".jpg", ".png") else None])
    stage.image_folders = {"golden": pictures}
    output = stage.run(inputs, tmp_path, ignore)
    assert output.rejected and output.table.num_rows == whole - len(output.rejected)
    assert output.rows_in == whole


def test_images_with_fewer_than_two_boxes_are_never_opened(weights, inputs, tmp_path):
    table = inputs.table("images").to_pylist()
    few = [row | {"boxes": row["boxes"][:count], "relations": []} for count, row in enumerate(table)]
    artifact(tmp_path / "inputs", images=few)
    stage = opened(weights)
    stage.image_folders = {"golden": tmp_path / "no such folder"}
    output = stage.run(inputs, tmp_path, ignore)
    assert [(row["image_id"], row["relations"]) for row in output.table.to_pylist()] == [(1, []), (2, [])]
    assert not output.rejected and output.facts["images without candidates"] == 2


def test_weights_of_another_network_are_named(weights):
    config = load(weights / "model.safetensors", weights).config
    save(RLIP(replace(config, tagger=False), weights), weights / "model.safetensors")
    with pytest.raises(FatalError, match="contains weights of RLIP, not of a Relation Tagger; remove /"):
        opened(weights)
    (weights.parent / "import_tagger").mkdir()
    imported = weights.rename(weights.parent / "import_tagger" / weights.name)
    with pytest.raises(FatalError, match=r"not of a Relation Tagger; correct the files that tag\.weights names"):
        opened(imported)


def test_baselines_label_the_same_candidates_without_a_tagger(inputs, weights, tmp_path):
    own = opened(weights).run(inputs, tmp_path, ignore).table.to_pylist()
    for method in ("naive", "prior"):
        stage = TagStage(TagSettings(method=method, floor=0.0), FOLDERS)
        stage.open(Inputs())
        rows = stage.run(inputs, tmp_path, ignore).table.to_pylist()
        assert {row["tagger"] for row in rows} == {method}
        terms = [
            [{(r["subject"], r["predicate"], r["object"]) for r in row["relations"]} for row in t] for t in (rows, own)
        ]
        assert terms[0] == terms[1]
    labels = [label for row in rows for label in row["relations"]]
    assert labels and all(label["tagger_part"] == 0 and 0 < label["probability"] < 1 for label in labels)


@pytest.mark.parametrize(("section", "of"), [("tag", TagSettings), ("verify", VerifySettings)])
def test_clip_needs_its_folder_in_the_section_that_asks_for_it(section, of, tmp_path):
    with pytest.raises(FatalError, match=rf"^{section}\.clip = None: method 'clip' needs a folder"):
        of(method="clip").plugin.files()
    empty = of(method="clip", clip=tmp_path).plugin
    assert empty.files()["clip"] == tmp_path
    with pytest.raises(FatalError, match=rf"^{section}\.clip = .*: not a transformers CLIP model"):
        empty.open((), 0)


def test_the_most_frequent_names_of_the_tagger_stand_beside_those_of_the_image(weights, inputs):
    """More object texts change scores, since all texts of an image are fused with it, but not what is scored."""
    few, more = (
        opened(weights, category_texts=number, predicate_texts=0).run(inputs, weights, ignore).table.to_pylist()
        for number in (0, 2)
    )
    scores = [[relation["score"] for row in rows for relation in row["relations"]] for rows in (few, more)]
    assert len(scores[0]) == len(scores[1]) > 0 and scores[0] != scores[1]


BOXES = [Box("person", 0, 0, 10, 10), Box("chair", 5, 0, 10, 10), Box("cat", 40, 0, 10, 10)]


def proposed(settings: TagSettings) -> list[tuple[int, str, int]]:
    [triplets] = parse_captions(["a cat sitting on a chair"], load_parser())
    return [(pair.subject, pair.predicate, pair.object) for pair in open_candidates(settings)(triplets, BOXES).pairs]


@pytest.fixture
def dictionary(tmp_path: Path) -> Path:
    path = tmp_path / "phrases.json"
    path.write_text(json.dumps({"person": ["hair"], "chair": ["seat"], "cat": ["cat"]}))
    return path


def test_each_setting_changes_what_is_proposed(dictionary, tmp_path):
    table = tmp_path / "table.json"
    table.write_text(json.dumps({"cat": {"person": ["near"]}}))
    assert proposed(TagSettings()) == [(2, "sit on", 1)]
    assert proposed(TagSettings(wording="official")) == [(2, "on", 1)]
    assert proposed(TagSettings(overlap=True)) == []
    assert proposed(TagSettings(matching="official", paraphrases=dictionary)) == [(2, "sit on", 0)]
    assert proposed(TagSettings(enumeration="official")) == [(2, "sit on", 1)]
    assert proposed(TagSettings(cooccurrence=table)) == [(2, "near", 0)]


def test_files_are_part_of_the_key_by_content_and_paths_are_not(dictionary):
    stage = TagStage(TagSettings(paraphrases=dictionary))
    assert stage.files() == {"paraphrases": dictionary}
    assert "paraphrases" not in stage.row_settings()
    assert stage.row_settings()["matching"] == "words"


def test_a_file_that_is_missing_or_something_else_is_named(tmp_path):
    with pytest.raises(FatalError, match=r"tag\.paraphrases = .*: no such file"):
        TagStage(TagSettings(paraphrases=tmp_path / "none.json")).files()
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(FatalError, match=r"list\.json"):
        open_candidates(TagSettings(cooccurrence=tmp_path / "list.json"))


def test_a_table_without_captions_excludes_ways_to_read_them(tmp_path):
    with pytest.raises(ValidationError, match="reads no captions"):
        TagSettings(cooccurrence=tmp_path / "table.json", matching="official")
