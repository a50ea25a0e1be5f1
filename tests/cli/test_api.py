"""`rlip` in Python does what the commands do, and its objects show in notebooks."""

import asyncio
import errno
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pyarrow as pa
import pytest
from faulty_disk import flip
from PIL import Image
from rlip_command import output_of
from small_set import write_small_set

import rlip
from pipeline.cli.contact_sheet import LINE
from pipeline.labels.verdict_log import VerdictLog
from pipeline.labels.verdicts import JudgedRelation, Verdict
from pipeline.run.context import RunContext
from pipeline.run.prepare import other_folders, prepare
from pipeline.run.progress import Display
from pipeline.run.recipe_files import load_recipe
from rlip import runs
from scenes.scene import render
from scenes.world import make_scene
from storage.shards import sample_map
from storage.shards.index import read_index_file
from tests.storage.shard_files import write_sets

HEAVY = {"torch", "transformers", "prefect", "spacy", "numpy", "pyarrow", "pydantic"}


def test_the_import_loads_nothing_and_names_at_most_12_things():
    code = "import sys, rlip; print(*dir(rlip)); print(*sys.modules)"
    names, loaded = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.splitlines()
    assert set(names.split()) == set(rlip.__all__) and len(rlip.__all__) <= 12
    assert not HEAVY & set(loaded.split())
    with pytest.raises(AttributeError, match="has no attribute 'lable'"):
        _ = rlip.lable  # type: ignore[attr-defined]


def test_a_recipe_runs_and_its_tables_are_read(tmp_path):
    run = rlip.run(write_small_set(tmp_path), {"run.workers": 1, "tag.method": "prior", "tag.floor": 0.0})
    store = rlip.open(tmp_path / "out" / "store")
    assert store.runs() == ["small"] and repr(store.run("small@1")) == repr(run)
    assert run.images().num_rows == run.captions().num_rows == run.triplets().num_rows == 8
    words = ("--store", tmp_path / "out" / "store", "--json")
    told = json.loads(output_of("query", "small", "select predicate, score from labels where kept", *words))
    assert run.labels().select(["predicate", "score"]).to_pylist() == told
    assert run.labels(all_scores=True).num_rows >= 8
    assert run.sql("select count(*) as n from images").to_pylist() == [{"n": 8}]
    assert run.report(tmp_path / "page").is_file()
    with pytest.raises(rlip.Error, match="threshold = 50: give at most 1"):
        run.export(tmp_path / "percent", threshold=50)
    with pytest.raises(rlip.Error, match="no verdicts at"):
        run.report(tmp_path / "page", verdicts=str(tmp_path / "verdicts"))
    assert (run.export(tmp_path / "csv", "csv") / "labels.csv").is_file()
    with pytest.raises(rlip.Error, match="has no record"):
        store.run("small@7")
    with pytest.raises(rlip.Error, match=r"run\.workers = 0"):
        rlip.run(tmp_path / "recipe.toml", {"run.workers": 0})
    explained = run.explain(image=1)
    assert str(explained) == output_of("explain", "1", "small@1", *words[:2]).rstrip("\n")
    assert explained._repr_html_().startswith("<img alt=") and "a person riding a horse" in explained._repr_html_()
    (tmp_path / "images" / "000001.png").unlink()
    assert run.explain(image=1)._repr_html_().startswith("<pre>"), "without its image"
    assert "caption" in run._repr_html_() and "small" in store._repr_html_()
    named = store.run("small")
    lost, *_ = (tmp_path / "out/store/artifacts/tag").iterdir()
    lost.rename(tmp_path / "lost")
    with pytest.warns(UserWarning, match="the store lacks 1 of 2 artifacts of tag"):
        assert run.labels(all_scores=True).num_rows > 0
    (tmp_path / "out" / "store").rename(tmp_path / "moved")
    for moved in (run, named):
        with pytest.raises(rlip.Error, match=r"'small.* has no labels: it was removed, or the store moved"):
            moved.labels()


def test_prefect_is_refused_inside_an_event_loop_before_anything_is_computed(tmp_path):
    async def cell() -> None:
        rlip.run(write_small_set(tmp_path), {"run.until": "ingest"}, "prefect")

    with pytest.raises(rlip.Error, match="does not work inside an event loop"):
        asyncio.run(cell())


def test_runs_in_threads_take_turns(tmp_path, monkeypatch):
    recipe, inside, most = load_recipe(write_small_set(tmp_path)), [], []

    def run(*_: object) -> None:
        inside.append(None)
        most.append(len(inside))
        time.sleep(0.2)
        inside.pop()

    monkeypatch.setattr(runs, "execute_run", run)
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(runs._executed, [recipe, recipe]))
    assert most == [1, 1]


def test_a_run_whose_name_other_images_take_says_so(tmp_path, capfd):
    settings = {"run.until": "ingest", "store": str(tmp_path / "store"), "reports": str(tmp_path / "reports")}
    recipes = [write_small_set(tmp_path / name) for name in ("one", "two")]
    for recipe, is_other in ((recipes[0], False), (recipes[0], False), (recipes[1], True)):
        rlip.run(recipe, settings)
        told = capfd.readouterr().err
        assert ("run small was last made from the images in" in told) == is_other


def test_a_folder_of_verdicts_may_be_named_before_any_is_on_these_images(tmp_path, capfd):
    about = JudgedRelation("d" * 64, (4, 4, 20, 30), (20, 10, 30, 30), "ride")
    verdict = Verdict(about, "reject", "ada", "2026-01-31T12:00:00+00:00", "person", "horse")
    for name, given in (("empty", []), ("of others", [verdict])):
        recipe, verdicts = write_small_set(tmp_path / name, 1), tmp_path / name / "verdicts"
        verdicts.mkdir()
        VerdictLog(verdicts).append(given)
        rlip.run(recipe, {"tag.method": "prior", "shard.verdicts": str(verdicts)})
        told = " ".join(capfd.readouterr().err.split())
        assert ("none of these verdicts is on an image of this run" in told) == bool(given)


def test_images_are_the_same_by_any_relative_path_and_others_by_the_same_one(tmp_path, monkeypatch):
    told = []
    for name in ("one", "two"):
        recipe = write_small_set(tmp_path / name, 1)
        recipe.write_text(recipe.read_text().replace(f'root = "{recipe.parent}"', ""))
    for folder, path in (("one", "recipe.toml"), ("", "one/recipe.toml"), ("two", "recipe.toml")):
        monkeypatch.chdir(tmp_path / folder)
        context = RunContext(load_recipe(Path(path), [f"store={tmp_path}/store", f"reports={tmp_path}/reports"]))
        told.append(other_folders(context))
        prepare(context, Display())
    assert told[:2] == ["", ""]
    assert f"made from the images in {tmp_path}/one/images, and is now made from those in {tmp_path}/two" in told[2]
    context = RunContext(load_recipe(tmp_path / "one/recipe.toml", [f"store={tmp_path}/store"]))
    monkeypatch.chdir(tmp_path / "one")
    assert other_folders(context)
    monkeypatch.setattr(Path, "exists", Mock(side_effect=PermissionError(errno.EACCES, "Permission denied")))
    assert other_folders(context) == "", "the folders of somebody else may not be looked into"


@pytest.mark.parametrize(("call", "message"), [
    (lambda: rlip.run("demo", {"tag.weights": None}), "tag.weights = None: .* omit the setting"),
    (lambda: rlip.label("photos", tagger="t", detector="d", treshold=0.3), r"'treshold' \(did you mean 'threshold'"),
    (lambda: rlip.label("a", tagger="t", detector="d", captioner=Path("c"), threshold="high"), "^threshold = 'high': "),
    (lambda: rlip.run("demo", ["run.workers=1"]), r"settings = \['run.workers=1'\]"),
    (lambda: rlip.run("demo", runner="prefct"), "runner = 'prefct': give one of 'direct' or 'prefect'"),
    (lambda: rlip.run("demo", {}, "direct", 2), "3 = 2: Unexpected positional argument"),
    (lambda: rlip.load("demo-detector", devise="cpu"), r"unknown argument 'devise' \(did you mean 'device'"),
    (lambda: rlip.evaluate([], benchmark="hico", annotations="a.json"), "no benchmark 'hico'"),
    (lambda: rlip.evaluate([], benchmark="vg", annotations="a.json", split=Path("s")), "--split: vg has no such rule"),
    (lambda: rlip.evaluate([], benchmark="hico-det", annotations="a.json"), "--detections: names no file"),
])  # fmt: skip
def test_arguments_are_checked_as_those_of_commands_are(call, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where a call makes a store
    with pytest.raises(rlip.Error, match=message):
        call()


def test_a_tilde_is_the_home_folder_in_calls_settings_and_commands(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_small_set(tmp_path / "coco")
    words = {"run.until": "ingest", "data.root": "~/coco", "data.sources.0.annotations": "~/coco/instances.json"}
    rlip.run("~/coco/recipe.toml", words | {"store": "~/here", "reports": "~/reports"})
    assert rlip.open("~/here").runs() == ["small"] and (tmp_path / "reports" / "small").is_dir()
    output_of("export", "small", "--format", "coco", "--out=~/exported", "--store=~/here", cwd=tmp_path)
    run = rlip.open("~/here").run("small")
    assert run.export("~/again", "coco") == tmp_path / "again" and run.report("~/page").is_relative_to(tmp_path)
    run.explain(1).draw("~/1.png")
    made = {"exported", "again", "page", "1.png"}
    assert made <= {path.name for path in tmp_path.iterdir()} and not Path("~").exists()


def test_the_images_of_a_run_are_found_from_any_folder(tmp_path, monkeypatch):
    recipe = write_small_set(tmp_path / "set", 1)
    recipe.write_text(recipe.read_text().replace(f'root = "{recipe.parent}"', ""))
    monkeypatch.chdir(recipe.parent)
    run = rlip.run("recipe.toml", {"run.until": "ingest"})
    monkeypatch.chdir(tmp_path)
    assert run.explain(1).image.size == (64, 48)


def test_settings_are_values_of_any_kind(tmp_path):
    folder = tmp_path / "çà 😀"
    source = {"name": "set", "images": "images", "annotations": "instances.json"}
    values = {"data.root": folder, "data.sources": [source], "shard.thresholds": {"ride": 0.5, 'an "odd" one': 1}}
    values |= {"run.until": "ingest", "tag.method": "prior"}
    assert rlip.run(write_small_set(folder), values).images().num_rows == 8


def test_a_recipe_runs_again_on_files_that_have_changed(tmp_path):
    recipe = write_small_set(tmp_path)
    words, runs = {"run.until": "caption"}, []
    for name, number in (("captions", 4), ("instances", 3)):
        runs.append(rlip.run(recipe, words))
        stated = json.loads((tmp_path / f"{name}.json").read_text())
        stated["annotations"] = [each for each in stated["annotations"] if each["image_id"] != number]
        (tmp_path / f"{name}.json").write_text(json.dumps(stated))
    run = rlip.run(recipe, words)
    captions = {row["image_id"]: len(row["captions"]) for row in run.captions().to_pylist()}
    sizes = [sum(map(len, each.captions()["captions"].to_pylist())) for each in (*runs, run)]
    assert sizes == [8, 7, 6], "what an execution returned stays as it left it"
    assert captions == {1: 1, 2: 1, 4: 0, 5: 1, 6: 1, 7: 1, 8: 1}, "an image without boxes has no row"
    assert [bool(row["boxes"]) for row in run.images().to_pylist()] == [image != 3 for image in range(1, 9)]
    (tmp_path / "captions.json").write_text("{}")
    with pytest.raises(rlip.Error, match="none of the captions belongs to a labelled image"):
        rlip.run(recipe, words)


def test_a_model_finds_in_an_image_what_the_command_finds(tmp_path):
    render(make_scene(31, 0)).save(tmp_path / "scene.png")
    names = {"objects": ["person", "horse"], "predicates": ["ride", "next to"]}
    found = rlip.load("demo-detector").predict(tmp_path / "scene.png", **names, threshold=0.01)
    listed = [word for kind, each in names.items() for word in (f"--{kind}", ",".join(each))]
    output_of("predict", "demo-detector", "scene.png", *listed, "--threshold", "0.01", "--out", "a.json", cwd=tmp_path)
    row = json.loads((tmp_path / "a.json").read_text())
    assert found.relations()["predicate"].to_pylist() == [pair["predicate"] for pair in row["pairs"]]
    assert found.relations()["score"].to_pylist() == pytest.approx([pair["score"] for pair in row["pairs"]], abs=1e-5)
    assert found.draw(tmp_path / "drawn.png").size == (560, found.draw().height)
    assert found.draw(top=0).height == found.draw(top=1).height - LINE, "no relation is drawn, and none is denied"
    assert "data:image/png;base64," in found._repr_html_()
    said = rlip.load("demo-detector").predict(tmp_path / "scene.png", "person, horse", "ride,next to", threshold=0.01)
    assert said.row == found.row
    (tmp_path / "names.txt").write_text("1 ride\n2 next_to\n")
    listed_in = rlip.load("demo-detector").predict(
        tmp_path / "scene.png", names["objects"], f"@{tmp_path}/names.txt", threshold=0.01
    )
    assert listed_in.row == found.row
    model = rlip.load("demo-detector")
    model.predict(
        tmp_path / "scene.png", "traffic_light", "hold", subject="traffic_light"
    )  # in the form of the objects
    with Image.open(tmp_path / "scene.png") as image:
        for given in (image, image.convert("RGBA"), np.asarray(image)):
            assert model.predict(given, **names, threshold=0.01).row == found.row | {"uri": "image"}
        exif = Image.Exif()
        exif[0x0112] = 6
        image.save(tmp_path / "turned.png", exif=exif)
    with pytest.warns(UserWarning, match="EXIF orientation are read as stored"):
        assert model.predict(tmp_path / "turned.png", **names, threshold=0.01).row["boxes"] == found.row["boxes"]
    output_of("predict", "demo-detector", "turned.png", *listed, "--out", "b.json", cwd=tmp_path)
    data = (tmp_path / "scene.png").read_bytes()
    at = data.index(b"IDAT")
    half = int.from_bytes(data[at - 4 : at]) // 2
    broken = data[: at - 4] + half.to_bytes(4) + data[at : at + 4 + half] + bytes(16)  # another chunk without a name
    opened = (Image.open(BytesIO(each)) for each in (data[: len(data) // 2], broken))
    for unusable in (Path(__file__), [tmp_path / "scene.png"], *opened):
        with pytest.raises(rlip.Error, match="can't be read as one image"):
            model.predict(unusable, **names)
    with pytest.raises(rlip.Error, match="has no names of objects"):
        model.predict(tmp_path / "scene.png", [], names["predicates"])
    with pytest.raises(rlip.Error, match="image size 0: give a longest side of 32 to"):
        rlip.load("demo-detector", image_size=0).predict(tmp_path / "scene.png", **names)
    with pytest.raises(rlip.Error, match=r"threshold = 50, per_image = 100: give a score from 0 to 1"):
        model.predict(tmp_path / "scene.png", **names, threshold=50)
    with pytest.raises(rlip.Error, match=r"drawn\.what: can't be written \(unknown file extension"):
        found.draw(tmp_path / "drawn.what")
    ends = [{"bbox": [10, 10, 50, 90], "category_id": 1}, {"bbox": [40, 60, 80, 95], "category_id": 2}]
    pair = {"subject_id": 0, "object_id": 1, "category_id": 1}
    truth = [{"file_name": "scene.png", "img_id": 1, "annotations": ends, "hoi_annotation": [pair]}]
    for name, content in (("truth", truth), ("verbs", names["predicates"]), ("objects", names["objects"])):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    files = [f"{field}={tmp_path / field}.json" for field in ("verbs", "objects")]
    scored = rlip.evaluate([found], benchmark="hico-det", annotations=tmp_path / "truth.json", files=files)
    given = ("--ground-truth", "truth.json", "--detections", "a.json", *(f"--file={file}" for file in files), "--json")
    told = json.loads(output_of("evaluate", "hico-det", *given, cwd=tmp_path))
    assert json.loads(scored.as_json())["figures"] == told["figures"]


def test_a_stream_begins_at_any_epoch(tmp_path, monkeypatch):
    monkeypatch.setenv("RLIP_CACHE", str(tmp_path / "cache"))
    write_sets(tmp_path, {"a": 40, "b": 30})
    (tmp_path / "._a.tar").touch()  # as macOS adds on disks of other systems
    both = [sample["__key__"] for sample in rlip.stream(tmp_path, seed=3, epochs=2)]
    assert sorted(both[:70]) == sorted(both[70:]) and len(set(both)) == 70
    second = rlip.stream(tmp_path, seed=3, epoch=1)
    for _ in range(2):
        assert len(second) == 70 and [sample["__key__"] for sample in second] == both[70:]
    parts = [[s["__key__"] for s in rlip.stream(tmp_path, seed=3, batch=7, rank=rank, ranks=2)] for rank in (0, 1)]
    assert sorted(parts[0] + parts[1]) == sorted(both[:70])
    with pytest.raises(rlip.Error, match="contains no tar"):
        rlip.stream(tmp_path / "cache")


def test_a_stream_of_relative_paths_reads_the_same_tars_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("RLIP_CACHE", str(tmp_path / "cache"))
    for name, size in (("a", 4), ("b", 5)):
        write_sets(tmp_path / name / "shards", {"x": size})
    (own,) = {str(tar) for tar in (tmp_path / "a").rglob("*.tar")}
    for folder, shards in (("a", "shards"), ("b", "../a/shards")):
        monkeypatch.chdir(tmp_path / folder)
        found = [sample["__url__"] for sample in rlip.stream(shards)]
        assert len(found) == 4 and {str(Path(tar).resolve()) for tar in found} == {own}


def test_a_kept_map_of_samples_that_changed_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("RLIP_CACHE", str(tmp_path / "cache"))
    write_sets(tmp_path, {"a": 4})
    flip(rlip.stream(tmp_path).sequence.samples.folder / "samples.bin", 20)
    with pytest.raises(rlip.Error, match=r"samples\.bin: changed since it was written; remove the folder"):
        rlip.stream(tmp_path)


def test_a_rank_keeps_the_map_that_a_faster_one_reads(tmp_path, monkeypatch):
    monkeypatch.setenv("RLIP_CACHE", str(tmp_path / "cache"))
    write_sets(tmp_path, {"a": 4})
    found = []

    def read_after_another_rank(index: Path) -> pa.Table:
        monkeypatch.setattr(sample_map, "read_index_file", read_index_file)
        found.append(rlip.stream(tmp_path).sequence.samples.folder.stat())
        return read_index_file(index)

    monkeypatch.setattr(sample_map, "read_index_file", read_after_another_rank)
    assert rlip.stream(tmp_path).sequence.samples.folder.stat().st_ino == found[0].st_ino
