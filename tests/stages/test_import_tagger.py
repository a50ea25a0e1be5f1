"""A tagger is a file: the authors' R-Tagger, converted, labels as the network in it does, and nothing is trained."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from golden.stage_cases import stages
from typer.testing import CliRunner

from benchmarks.parity import OWN
from benchmarks.recorded.recording import Recording
from models.config import TextConfig
from models.relation_tagger import RelationTagger
from models.weights import save
from pipeline.cli.app import app
from pipeline.runtime.stage import Inputs
from pipeline.stages.import_tagger import ImportTaggerSettings, ImportTaggerStage
from pipeline.stages.tag import TagSettings, TagStage
from storage.artifact import Artifact
from storage.errors import FatalError
from storage.tables import read_table, write_table
from tests.stages.test_tag import golden_inputs
from tests.training.conftest import ignore


def labels(tagger: Path, work: Path) -> list[dict[str, Any]]:
    """The labels that stage `tag` gives the golden images."""
    read = golden_inputs(work / "inputs")
    tag = TagStage(TagSettings(floor=0.0), stages()["tag"].image_folders)
    tag.open(Inputs({"tagger": (Artifact(tagger),)}))
    rows = tag.run(read, work, ignore).table.to_pylist()
    return [row["relations"] for row in rows]


def test_official_weights_label_as_the_network_that_they_hold(root, tmp_path):
    tokenizer = root / "scenes/weights/text"
    config = replace(
        Recording(OWN, "tagger_own").config,
        text=TextConfig(hidden=32, layers=1, heads=2, feedforward=64, vocabulary=1200, max_positions=20),
    )
    torch.manual_seed(3)
    network = RelationTagger(config, tokenizer).eval()
    ours, theirs, again = tmp_path / "ours", tmp_path / "theirs.pth", tmp_path / "again.safetensors"
    ours.mkdir()
    save(network, ours / "model.safetensors")
    (ours / "vocabulary.json").write_text(json.dumps({"objects": [], "predicates": [], "image_size": 96}))
    for file in tokenizer.iterdir():
        (ours / file.name).write_bytes(file.read_bytes())
    for words in (
        ("export", ours / "model.safetensors", theirs),
        ("import", theirs, again, "--set", "text.heads=2", "--set", "text.max_positions=20"),
    ):
        done = CliRunner().invoke(app, ["weights", *map(str, words)])
        assert done.exit_code == 0, done.output
    taken = tmp_path / "taken"
    taken.mkdir()
    settings = ImportTaggerSettings(weights=str(again), tokenizer=tokenizer, image_size=96)
    made = ImportTaggerStage(settings).run(Inputs(), taken, ignore)
    assert {"model.safetensors", "vocabulary.json", "vocab.json", "merges.txt"} <= made.files.keys()
    found = labels(taken, tmp_path / "found")
    assert found == labels(ours, tmp_path / "expected") and any(found)


@pytest.mark.parametrize("metrics", [b"no table", None], ids=["torn", "other columns"])
def test_a_file_that_is_no_metrics_of_a_training_is_named(metrics, root, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    (tmp_path / "vocabulary.json").write_text("{}")
    path = tmp_path / "tagger.parquet"
    path.write_bytes(metrics) if metrics else write_table(pa.table({"loss": [1.0]}), path)
    (tmp_path / "work").mkdir()
    settings = ImportTaggerSettings(weights=str(tmp_path), tokenizer=root / "scenes/weights/text")
    with pytest.raises(FatalError, match=rf"^{path}: not the metrics of a tagger's training \(.+\); remove it or copy"):
        ImportTaggerStage(settings).run(Inputs(), tmp_path / "work", ignore)


def test_a_run_lends_the_tagger_of_its_present_recipe(book, root):
    for step in ("train_tagger", "train_tagger:0", "train_tagger:1"):
        book.metrics(step, (1, step, 0.5))
    settings = ImportTaggerSettings(
        weights=book.run.name, store=str(book.run.store.root), tokenizer=root / "scenes/weights/text"
    )
    lent = {}
    for folds in (1, 2):
        book.run.note("recipe", {"train_tagger": {"folds": folds}})
        lent[folds] = read_table(ImportTaggerStage(settings).files()["tagger.parquet"])["name"].to_pylist()
    assert lent == {1: ["train_tagger"], 2: ["train_tagger:0"]}


def test_a_folder_of_the_runs_name_does_not_hide_the_run(book, root, tmp_path, monkeypatch):
    book.metrics("train_tagger", (1, "train_tagger", 0.5))
    monkeypatch.chdir(tmp_path)
    (tmp_path / book.run.name).mkdir()
    settings = ImportTaggerSettings(
        weights=book.run.name, store=str(book.run.store.root), tokenizer=root / "scenes/weights/text"
    )
    assert "tagger.parquet" in ImportTaggerStage(settings).files()
    with pytest.raises(
        FatalError, match=r"neither a file nor a run \(no file other/model\.safetensors; no run 'other'"
    ):
        ImportTaggerStage(settings.model_copy(update={"weights": "other"})).files()
