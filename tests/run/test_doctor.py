"""The doctor finds what is missing before any work, and says what to do."""

import gzip
import json
import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from packaging.requirements import Requirement
from rlip_command import loaded_by, rlip
from small_set import small_recipe, train_long, write_small_set

from pipeline.run.context import RunContext
from pipeline.run.doctor import (
    examine,
    idle_gpus,
    ray_cluster,
    require,
    require_readable,
    stated_ranges,
    unmet,
    usual_texts,
)
from pipeline.run.networks import FIT, Finding, networks
from pipeline.run.prepare import prepare
from pipeline.run.progress import Lines
from pipeline.run.recipe import Recipe
from pipeline.run.recipe_files import load_recipe
from pipeline.runtime import devices
from pipeline.runtime.engines.ray import RayNode
from pipeline.training.vocabulary import make_tokenizer
from storage.errors import FatalError
from tests.data.toy_sets import save_json

SMALL = {
    "backbone": "test_resnet", "backbone_norm": "group", "backbone_strides": [8, 16], "levels": 3,
    "text": {"hidden": 32, "layers": 1, "heads": 2, "feedforward": 64},
}  # fmt: skip


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    """A recipe with complete data."""
    return small_recipe(write_small_set(tmp_path, 1).parent)


def changed(recipe: Recipe, **values: Any) -> Recipe:
    return Recipe.model_validate({**recipe.model_dump(), **values})


def crashes(steps: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def found(recipe: Recipe, *states: str) -> dict[str, str]:
    """What the doctor finds → detail, of any state or of these."""
    findings = examine(RunContext(recipe))
    return {each.what: each.detail for each in findings if not states or each.state in states}


def missing(recipe: Recipe) -> dict[str, str]:
    return found(recipe, "missing")


def test_nothing_is_missing_where_all_is_there(recipe):
    assert missing(recipe) == {}
    require(RunContext(recipe))
    assert {"data.sources set", "disk", "versions", "machine", "accelerator"} <= found(recipe).keys()


def test_categories_that_no_noun_names_are_listed(recipe):
    path = Path(recipe.data.root) / "instances.json"
    given = json.loads(path.read_bytes())
    assert "categories of set" not in found(recipe)
    given["categories"][0]["name"] = "class_17"
    path.write_text(json.dumps(given))
    note = found(recipe, "note")["categories of set"]
    assert "class_17" in note and "tag.paraphrases" in note
    phrases = path.with_name("phrases.json")
    named = recipe.model_copy(update={"tag": recipe.tag.model_copy(update={"paraphrases": phrases})})
    phrases.write_text('{"class_17": ["pony"]}')
    assert "categories of set" not in found(named)
    phrases.write_text("[]")
    assert "phrases.json" in missing(named)["tag.paraphrases"]


@pytest.mark.parametrize("data, message", [
    (gzip.compress(b"{}", mtime=0), "is compressed; unpack it first"),
    (b"version https://git-lfs.github.com/spec/v1\noid", "is a Git LFS pointer"),
    (b"<html>gone</html>", "is not JSON: it begins with b'<html>"),
    (b"", "is empty"),
    (b'{"images": [{"id": 1}, {"id"', "ends in the middle of its JSON, with b'"),
])  # fmt: skip
def test_annotations_that_are_no_json(recipe, tmp_path, data, message):
    (tmp_path / "instances.json").write_bytes(data)
    assert re.search(message, missing(recipe)["data.sources set"])
    with pytest.raises(FatalError, match=r"data.sources set: annotations: .*instances\.json (is|ends)"):
        require(RunContext(recipe))


def test_files_of_a_benchmark_that_are_missing_are_reported_with_their_origin(recipe, tmp_path):
    save_json(tmp_path / "annotations.json", {})
    source = {"name": "set", "format": "vrd", "images": "images", "annotations": "annotations.json"}
    source |= {"objects": "vrd/objects.json", "predicates": "vrd/predicates.json"}
    asked = changed(recipe, data={"root": tmp_path, "sources": [source], "label": ["set"]})
    detail = missing(asked)["data.sources set"]
    assert f"objects: no file {tmp_path}/vrd/objects.json; predicates: no file" in detail
    assert "set data.root" in detail, "the paths of the recipe are relative, although data.root is not"
    assert f"start in data.root, {tmp_path};" in detail
    origin = "https://cs.stanford.edu/people/ranjaykrishna/vrd/"
    assert f"must be downloaded manually from {origin}; `rlip data get vrd` says how" in detail
    (tmp_path / "vrd").mkdir()
    save_json(tmp_path / "vrd/objects.json", ["person"])
    (tmp_path / "vrd/predicates.json").write_bytes(b"<html>")
    assert "predicates.json is not JSON: it begins with b'<html>'" in missing(asked)["data.sources set"]


def test_a_tokenizer_folder_without_a_tokenizer(recipe, tmp_path):
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    settings = {"tokenizer": folder, "random_start": True}
    asked = changed(recipe, pretrain={"variants": ["none"], "settings": settings})
    assert "needs tokenizer.json, or vocab.json and merges.txt" in missing(asked)["pretrain:none tokenizer"]
    make_tokenizer((), 300, folder)
    assert missing(asked) == {}
    small = {**settings, "network": {"text": {"vocabulary": 200}}}
    asked = changed(recipe, pretrain={"variants": ["none"], "settings": small})
    assert "has 261 tokens, but text.vocabulary=200" in missing(asked)["pretrain:none network"]


@pytest.mark.parametrize("data, message", [
    ('{"1": "caf\xe9"}'.encode("latin-1"), "is not UTF-8 text \\(byte 10\\)"),
    (b'{"1": "a man', "ends in the middle"),
])  # fmt: skip
def test_recorded_captions_that_can_not_be_read(recipe, tmp_path, data, message):
    (tmp_path / "captions.json").write_bytes(data)
    assert re.search(message, missing(recipe)["caption.recorded"])


def test_a_captioner_is_looked_into(recipe, tmp_path, root):
    folder = shutil.copytree(root / "scenes/weights/captioner", tmp_path / "captioner")
    asked = changed(recipe, caption={"model": str(folder)})
    assert missing(asked) == {}
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:1000])
    assert "model.safetensors can't be read" in missing(asked)["caption.model"]
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "config.json").write_text('{"model_type": "bert"}')
    assert "a model of type 'bert', not 'blip'" in missing(asked)["caption.model"]


@pytest.mark.parametrize("settings, message", [
    ({"network": {"backbone": "resnet999"}}, "backbone='resnet999': neither a timm model"),
    ({"network": SMALL, "pretrained": "scenes/weights/detector/model.safetensors"}, "different shapes, e.g. "),
    ({"network": SMALL, "pretrained": "scenes/weights/captioner/model.safetensors"},
     "convert official weights first"),
    ({"network": SMALL, "pretrained": "README.md", "tokenizer": "scenes/weights/text"},
     "pretrained: README.md: not a readable"),
    ({"network": SMALL, "device": "cuda"}, "finds no such GPU"),
])  # fmt: skip
def test_networks_that_can_not_be_trained_stop_a_run_before_work(recipe, root, monkeypatch, settings, message):
    monkeypatch.chdir(root)
    asked = changed(recipe, pretrain={"variants": ["none"], "settings": settings})
    assert re.search(message, missing(asked)["pretrain:none network"])
    with pytest.raises(FatalError, match=message):
        require(RunContext(asked))


def test_gpus_are_asked_of_the_machine_that_trains(recipe):
    settings = {"network": SMALL, "device": "cuda"}
    asked = changed(recipe, pretrain={"variants": ["none"], "settings": settings})
    require(RunContext(asked, ["ingest"]))
    with pytest.raises(FatalError, match="finds no such GPU"):
        require(RunContext(asked, ["pretrain"]))


@pytest.mark.parametrize("network, words", [
    ({}, ["resnet50", "backbone_norm", "roberta-base"]),
    ({"backbone_norm": "batch"}, ["roberta-base"]),
    ({"text": {"layers": 2}}, ["resnet50", "backbone_norm"]),
])  # fmt: skip
def test_a_network_starts_at_random_only_if_asked_to(recipe, network, words):
    def asked(**settings: Any) -> Recipe:
        training = {"network": network, "processes": 1, **settings}
        return changed(recipe, pretrain={"variants": ["none"], "settings": training})

    detail = missing(asked())["pretrain:none weights"]
    assert all(word in detail for word in [*words, "pretrain.settings.pretrained", "random_start = true"])
    assert ("roberta-base" in detail) == ("roberta-base" in words)
    meant = asked(random_start=True)
    told = list(examine(RunContext(meant)))
    assert not [each for each in told if each.state == "missing"]
    (weights,) = (each for each in told if each.what == "pretrain:none weights")
    assert weights.state == "note" and weights.detail.startswith("starts from random weights")
    assert meant.pretrain.settings.row_settings() == asked().pretrain.settings.row_settings()


def test_a_small_network_starts_at_random_without_a_word(recipe):
    asked = changed(recipe, pretrain={"variants": ["none"], "settings": {"network": SMALL}})
    assert "pretrain:none weights" not in found(asked)


@pytest.mark.parametrize("flags, precision", [
    ("flags\t\t: fpu avx2 avx512f avx512_bf16\n", "bfloat16"), ("flags\t\t: fpu amx_bf16 avx512f\n", "bfloat16"),
    ("Features\t: fp asimd i8mm bf16\n", "bfloat16"), ("flags\t\t: fpu avx2 avx512f\n", "float32"),
])  # fmt: skip
def test_precision_auto_is_what_the_device_can_and_the_key_holds_which(
    recipe, root, tmp_path, monkeypatch, flags, precision
):
    (tmp_path / "cpuinfo").write_text(flags)
    monkeypatch.setattr(devices, "PROCESSOR", tmp_path / "cpuinfo")

    def asked(chosen: str, *variants: str) -> RunContext:
        on_cpu = {"precision": chosen, "device": "cpu"}
        caption = {"model": str(root / "scenes/weights/captioner"), **on_cpu}
        training = {"variants": variants, "settings": {"network": SMALL, "processes": 1, **on_cpu}}
        return RunContext(changed(recipe, caption=caption, pretrain=training))

    def keys(context: RunContext) -> list[Any]:
        return [step.stage(step.settings).row_settings() for step in context.steps]

    for variants, step in (((), "caption"), (("none",), "pretrain:none")):
        assert keys(asked("auto", *variants)) == keys(asked(precision, *variants))
        (chosen,) = (each for each in examine(asked("auto", *variants)) if each.what.endswith(" precision"))
        assert chosen.what == f"{step} precision" and chosen.detail.startswith(f"auto: {precision}")
        said: list[str] = []
        prepare(asked("bfloat16", *variants), Lines(said.append))
        warned = [line for line in said if "emulates it, several times slower than float32" in line]
        assert len(warned) == (precision == "float32")


def test_a_plan_needs_neither_space_nor_permission(recipe):
    full = changed(recipe, run={"min_free_gib": 1e9})
    assert "min_free_gib" in missing(full)["disk"]
    require_readable(RunContext(full))


def test_a_full_disk_with_the_copies_of_a_remote_store_names_their_setting(recipe, machine):
    machine("other")
    full = changed(recipe, store="memory://full", run={"min_free_gib": 1e9})
    assert missing(full)["disk"].endswith("free some space or change RLIP_CACHE")


def test_several_nodes_need_a_store_in_a_folder(recipe, machine):
    machine("other")
    settings = {"network": SMALL, "nodes": 2, "address": "127.0.0.2:29500"}
    asked = changed(recipe, store="memory://shared", pretrain={"variants": ["none"], "settings": settings})
    assert missing(asked)["pretrain:none"].startswith("nodes = 2, but store = memory://shared; set store to a folder")


def test_an_endpoint_of_many_models_is_reported_in_short(recipe, monkeypatch):
    monkeypatch.setattr("pipeline.run.doctor.models_of", lambda options: [f"model-{n}" for n in range(300)])
    asked = changed(recipe, caption={"captioner": "openai", "options": {"model": "model-299b"}})
    note = found(asked, "note")["caption.options"]
    assert "model-9, and 290 more but not model-299b (did you mean 'model-299'?)" in note


def test_workers_of_this_machine_do_not_concern_a_ray_cluster(recipe):
    def notes(**run: Any) -> set[str]:
        return set(found(changed(recipe, run={"workers": 256, **run}), "note"))

    ours = {"memory", "run.workers"}
    assert ours <= notes()
    assert not ours & notes(engine="ray", ray_address="127.0.0.1:1")


def test_settings_that_leave_gpus_without_work_are_named(recipe):
    training = changed(recipe, pretrain={"variants": ["none"], "settings": {"processes": 7}}, run={"workers": 2})
    assert list(idle_gpus(training, 2)) == []
    assert {each.what: each.detail for each in idle_gpus(training, 8)} == {
        "run.workers": "2, which leaves 6 of 8 GPUs without work",
        "pretrain.settings.processes": "7, which leaves 1 of 8 GPUs without work",
    }
    assert not list(idle_gpus(changed(recipe, run={"engine": "ray", "ray_address": "127.0.0.1:1"}), 8))


def test_hosts_of_a_ray_cluster_have_their_own_responses_and_budgets(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.run.doctor.connect", lambda address: Mock(__version__="2"))
    monkeypatch.setattr("pipeline.run.doctor._views", lambda *_: [])
    caption = {"captioner": "openai", "options": {"model": "m", "budget_tokens": 9}}
    of_each = {"answers": tmp_path / "answers.sqlite"}

    def notes(*hosts: str, **also: Any) -> dict[str, str]:
        ray = {"engine": "ray", "ray_address": "127.0.0.1:1"}
        context = RunContext(changed(recipe, caption={**caption, **also}, run=ray))
        nodes = [RayNode(str(number), "", host, 8, 0, 2**40) for number, host in enumerate(hosts)]
        monkeypatch.setattr("pipeline.run.doctor.live_nodes", lambda ray: nodes)
        return {each.what: each.detail for each in ray_cluster(context) if each.state == "note"}

    assert notes("one", "one") == {}
    assert "would be one SQLite file for 2 hosts; set it to a file" in notes("one", "two")["caption.answers"]
    assert notes("one", "two", **of_each)["caption.options"].startswith("each of 2 hosts keeps its own responses")
    unlimited = {"options": {"model": "m"}}
    assert notes("one", "two", **unlimited).keys() == {"store", "caption.answers"}
    assert notes("one", "two", **unlimited, **of_each).keys() == {"store"}


def test_everything_that_is_missing_is_reported_at_once(recipe, tmp_path):
    (tmp_path / "instances.json").unlink()
    (tmp_path / "captions.json").unlink()
    assert {"data.sources set", "caption recorded 0"} <= missing(recipe).keys()


def test_versions_out_of_range_are_named_with_what_to_install():
    wanted = [Requirement(line) for line in ("numpy>=99", "rlip-no-such-package>=1,<2", "pyarrow>=1")]
    old, absent = unmet(wanted)
    assert old.startswith("numpy is ") and "pip install 'numpy>=99'" in old
    assert absent == "rlip-no-such-package is not installed: pip install 'rlip-no-such-package<2,>=1'"


def test_a_training_without_its_extra_is_reported_before_any_work(recipe, monkeypatch):
    monkeypatch.setattr("pipeline.training.trackers.find_spec", lambda name: None)
    require(RunContext(recipe))
    with pytest.raises(FatalError, match=r"pretrain:none: .*pip install 'rlip\[tensorboard\]'"):
        require(RunContext(changed(recipe, pretrain={"variants": ["none"]})))


def test_extras_are_asked_for_only_by_recipes_that_use_them():
    assert "s3fs" not in {wanted.name for wanted in stated_ranges()}
    assert {"s3fs", "torch"} <= {wanted.name for wanted in stated_ranges(extras=["s3"])}


TAGGED = """
name = "mine"
[[data.sources]]
name = "mine"
images = "."
annotations = "instances.json"
"""


@pytest.mark.parametrize("vocabulary, state, words", [
    ('{"image_size": 96}', "ok", "tagger with"),
    ("[" * 100_000, "missing", "vocabulary.json: damaged"),
    ('{"image_size": 0}', "missing", "vocabulary.json: damaged (image_size"),
])  # fmt: skip
def test_the_vocabulary_beside_a_tagger_is_read_within_limits(vocabulary, state, words, root, tmp_path):
    (tmp_path / "mine.toml").write_text(TAGGED)
    shutil.copytree(root / "scenes/weights/tagger", tmp_path / "tagger")
    (tmp_path / "tagger" / "vocabulary.json").write_text(vocabulary)
    recipe = load_recipe(tmp_path / "mine.toml", [f"tag.weights={tmp_path / 'tagger'}"])
    (fit,) = networks(RunContext(recipe))
    assert fit.state == state and words in fit.detail


def test_a_tagger_without_its_vocabulary_is_reported_unless_its_names_are_set(root, tmp_path):
    shutil.copytree(root / "scenes/weights/tagger", tmp_path / "tagger")
    weights = tmp_path / "tagger/model.safetensors"
    path, asked = write_small_set(tmp_path / "set", 1), [f"tag.weights={weights}"]

    def noted(*overrides: str) -> list[str]:
        return [each.detail for each in usual_texts(RunContext(load_recipe(path, [*asked, *overrides])))]

    assert noted() == []
    (tmp_path / "tagger/vocabulary.json").unlink()
    (note,) = noted()
    assert note.startswith(f"no vocabulary.json with names is next to {weights}")
    (tmp_path / "tagger/vocabulary.json").write_text(json.dumps({"objects": [], "predicates": [], "image_size": 64}))
    assert noted() == [note], "what importing weights alone writes"
    (tmp_path / "tagger/vocabulary.json").unlink()
    assert noted('tag.categories=["person", "horse"]') == []
    done = rlip("run", path, "--direct", "--json", "--until", "import_tagger", "--set", *asked)
    assert done.exit_code == 0 and f"tag.weights: no vocabulary.json with names is next to {weights}" in done.stdout


def test_a_tagger_that_is_asked_in_other_words_than_it_learned_is_told_of(root, tmp_path):
    shutil.copytree(root / "scenes/weights/tagger", tmp_path / "tagger")
    path, imported = write_small_set(tmp_path / "set", 1), f"tag.weights={tmp_path / 'tagger'}"

    def noted(*asked: str) -> list[str]:
        return [each.detail for each in usual_texts(RunContext(load_recipe(path, asked)))]

    (note,) = noted(imported, "tag.wording=official", "parse.layer=rules")
    assert note.endswith('in canonical form, but is asked for others; set tag.wording = "canonical"')
    names = {"objects": ["person"], "predicates": ["is on", "holding", "on"], "image_size": 64}
    (tmp_path / "tagger/vocabulary.json").write_text(json.dumps(names))
    (note,) = noted(imported)
    assert note.endswith('as worded, but is asked for others; set tag.wording = "official"')
    assert noted(imported, "tag.wording=official", "parse.layer=rules") == []
    (lost,) = noted(imported, "tag.wording=official")
    assert lost.startswith('"official" excludes relations that no rule finds')
    assert noted('data.tagger=["set"]', "train_tagger.official=true") == [note]


def test_networks_that_end_the_process_that_builds_them_stop_a_run(tmp_path, monkeypatch):
    path = write_small_set(tmp_path, 1)
    train_long(tmp_path)
    monkeypatch.setattr("pipeline.run.networks._built", crashes)
    with pytest.raises(FatalError, match="networks: building them: its process ended with -9"):
        require(RunContext(load_recipe(path)))


def test_the_doctor_recalls_what_a_run_found_until_something_changes(tmp_path, monkeypatch):
    path = write_small_set(tmp_path, 1)
    train_long(tmp_path)
    require(RunContext(load_recipe(path)))
    assert not loaded_by("doctor", path) & {"torch", "timm", "transformers"}

    def network(*overrides: str) -> Finding:
        (fit,) = networks(RunContext(load_recipe(path, overrides)))
        return fit

    fit = network()
    assert fit.state == "ok" and "RLIP with test_resnet" in fit.detail
    assert network("pretrain.settings.network.backbone=none_such").state == "missing"
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.run.networks._examined", lambda _: [Finding("ok", "again", "")])
        assert network() == fit
        patch.setenv("CUDA_VISIBLE_DEVICES", "7")
        assert network().what == "again"
    noted = RunContext(load_recipe(path)).run
    noted.note(FIT, {**noted.read_document(FIT), "found": [{"state": "fine"}]})
    assert network() == fit, "a note that is none is not believed"
