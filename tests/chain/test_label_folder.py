"""docs/datasets.md, From a bare folder to labels: `rlip label` on a folder of ten images that nobody annotated."""

import json
import re
import shlex
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow.parquet as pq
import pytest
from PIL import Image
from rlip_command import output_of, rlip

from pipeline.cli.label import label_recipe, require_usable
from pipeline.run.context import RunContext
from pipeline.run.recipe_files import load_recipe
from scenes.names import WORLD_CATEGORIES
from scenes.scene import render
from scenes.world import make_scene
from storage.errors import FatalError
from storage.local_store import LocalStore
from storage.open_store import open_store
from storage.runs import Run

PICTURES = "drawn/coco/train"
DEMO = {"--tagger": "demo-tagger", "--detector": "demo-detector", "--captioner": "demo-captioner"}


@pytest.fixture(scope="module")
def page(root: Path) -> str:
    """The section of docs/datasets.md."""
    return (
        (root / "docs/datasets.md").read_text().partition("\n## From a bare folder to labels")[2].partition("\n## ")[0]
    )


@pytest.fixture(scope="module")
def commands(page: str) -> list[list[str]]:
    """The commands of the section, which need no weights but those that ship."""
    return [shlex.split(line) for line in re.findall(r"^    rlip (.*)$", page, re.MULTILINE)]


@pytest.fixture(scope="module")
def workplace(root: Path, commands: list[list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which somebody followed the page."""
    folder = tmp_path_factory.mktemp("pictures")
    for name in ("scenes", "recipes"):
        (folder / name).symlink_to(root / name)
    assert [words[0] for words in commands] == ["data", "label", "show", "export"]
    for words in commands:
        output_of(*words, cwd=folder)
    return folder


def label(folder: Path, *words: str) -> tuple[dict[str, tuple[int, int]], dict[str, Any]]:
    """Calls `rlip label`. Returns step → (cached, due), and what was written."""
    events = [json.loads(line) for line in output_of(*words, "--json", cwd=folder).splitlines()]
    return {e["step"]: (e["cached"], e["due"]) for e in events if e.get("event") == "step"}, events[-1]


def test_every_picture_has_its_boxes_and_relations(workplace):
    pictures = json.loads((workplace / "out/labels/drawn/labels.json").read_bytes())
    assert {each["file_name"] for each in pictures} == {path.name for path in (workplace / PICTURES).iterdir()}
    assert len(pictures) == 10
    boxes = [box for each in pictures for box in each["boxes"]]
    assert len(boxes) >= 20 and {box["category"] for box in boxes} <= set(WORLD_CATEGORIES)
    assert all(0.7 <= box["score"] <= 1 for box in boxes)
    for each in pictures:
        for x, y, w, h in (box["box"] for box in each["boxes"]):
            assert min(x, y) >= 0 and min(w, h) > 0 and x + w <= each["width"] + 0.01 and y + h <= each["height"] + 0.01
        assert all(max(r["subject"], r["object"]) < len(each["boxes"]) and r["predicate"] for r in each["relations"])
    relations = sum(len(each["relations"]) for each in pictures)
    assert pq.read_table(workplace / "out/labels/drawn/labels.parquet").num_rows == relations >= 10


def write_more(folder: Path) -> None:
    """The same picture upright and as a camera held sideways saves it, beside files that are no pictures."""
    folder.mkdir()
    scene, exif = render(make_scene(31, 0)), Image.Exif()
    exif[0x0112] = 6
    scene.save(folder / "upright.png")
    scene.rotate(90, expand=True).save(folder / "sideways.png", exif=exif)
    (folder / "page.jpg").write_text("<html>Not found</html>")
    (folder / "IMG_1.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    (folder / "torn.png").write_bytes((folder / "upright.png").read_bytes()[:900])


def test_new_pictures_and_other_settings_compute_what_they_must_and_no_pictures_are_named(workplace, commands):
    (asked,) = (words for words in commands if words[0] == "label")
    before = json.loads((workplace / "out/labels/drawn/labels.json").read_bytes())
    write_more(workplace / PICTURES / "more")
    steps, made = label(workplace, *asked)
    assert steps["import_tagger"] == (1, 0) and "train_tagger" not in steps, "new images train nothing"
    assert steps["ingest"] == steps["detect"] == steps["caption"] == steps["tag"] == (1, 1)
    assert made["images"] == 12
    after = {each["file_name"]: each for each in json.loads((workplace / made["json"]).read_bytes())}
    assert all(after[each["file_name"]] == each for each in before)
    assert {name: reason.partition(" (")[0] for name, reason in made["left_out"].items()} == {
        "more/page.jpg": "not an image", "more/torn.png": "truncated", "*.HEIC": "not a supported image format",
    }  # fmt: skip
    sideways, upright = after["more/sideways.png"], after["more/upright.png"]
    assert upright["boxes"] and all(sideways[side] == upright[side] for side in ("width", "height"))
    for one, other in zip(sideways["boxes"], upright["boxes"], strict=True):
        assert one["category"] == other["category"] and one["box"] == pytest.approx(other["box"], abs=0.01)

    steps, made = label(workplace, *asked, "--categories", "person,horse")
    assert steps["ingest"] == (2, 0) and steps["detect"] == (0, 2), "other names detect again"
    found = json.loads((workplace / made["json"]).read_bytes())
    assert "person" in {box["category"] for each in found for box in each["boxes"]} <= {"person", "horse"}


def test_the_recipe_of_the_page_is_valid(page, tmp_path):
    (recipe,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    (tmp_path / "mine.toml").write_text(recipe)
    context = RunContext(load_recipe(tmp_path / "mine.toml"))
    assert [step.name for step in context.steps] == ["ingest", "detect", "caption", "parse", "import_tagger", "tag"]


def test_what_cannot_work_is_one_message(tmp_path):
    (tmp_path / "empty").mkdir()
    for folder in ("mine", "bad"):
        write_more(tmp_path / folder)
    for name in ("upright.png", "sideways.png"):
        (tmp_path / "bad" / name).unlink()
    for folder, changed, words in (
        ("nowhere", {}, f"no folder {tmp_path}/nowhere\n"),
        ("empty", {}, "no usable image"),
        ("mine", {"--detector": "nobody/nothing"}, "not in the local hub cache"),
        ("mine", {"--tagger": "none"}, "neither a file nor a run"),
        ("mine", {"--categories": "unicorn", "--detector": "demo-tagger"}, "takes boxes and detects none"),
        ("bad", {}, "none of its 2 images can be used"),
    ):
        options = [word for option in (DEMO | changed).items() for word in option]
        done = rlip("label", folder, *options, cwd=tmp_path)
        assert done.exit_code == 1 and words in done.stderr, done.stderr
    assert "page.jpg: not an image" in done.stderr, "the reasons are told"


def test_names_of_boxes_stay_as_they_are_written(tmp_path):
    asked = {"tagger": "tagger", "detector": "boxes.json", "store": str(tmp_path / "store")}
    recipe = label_recipe(str(tmp_path), categories="wine_glass, cat,Cat", **asked)
    assert recipe.detect.categories == ("wine_glass", "cat"), "others would be other settings of an earlier run"


def test_its_own_labels_are_not_images_of_another_format(tmp_path):
    for name in ("a.png", "b.heic", "out/labels/photos/labels.json", "out/labels/photos/labels.parquet"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    asked = {"tagger": "demo-tagger", "detector": "demo-detector", "store": str(tmp_path / "store")}
    context = RunContext(label_recipe(str(tmp_path), **asked))
    assert require_usable(context) == {"*.heic": "not a supported image format (1)"}


def test_folders_of_other_names_or_places_are_other_runs(tmp_path):
    given = {"tagger": "demo-tagger", "detector": "demo-detector", "store": str(tmp_path / "store")}
    names = [label_recipe(str(tmp_path / name), **given).name for name in ("photos", "Отпуск", "写真")]
    assert names[0] == "photos" and len(set(names)) == 3
    for place in ("a/photos", "b/photos"):
        (tmp_path / place).mkdir(parents=True)
    recorded = label_recipe(str(tmp_path / "a/photos"), **given).model_dump(mode="json")
    Run(LocalStore(tmp_path / "store"), "photos").note("recipe", recorded)
    assert label_recipe(str(tmp_path / "a/photos"), **given).name == "photos"
    with pytest.raises(FatalError, match=r"has labels of .*/a/photos; give the run of .*/b/photos another name"):
        label_recipe(str(tmp_path / "b/photos"), **given)
    (tmp_path / "a").rename(tmp_path / "moved")
    assert label_recipe(str(tmp_path / "moved/photos"), **given).name == "photos"
    (tmp_path / "a").symlink_to(tmp_path / "moved")
    assert label_recipe(str(tmp_path / "moved/photos"), **given).name == "photos", "the link leads to the same folder"
    assert label_recipe(str(tmp_path / "a/photos"), **given).name == "photos"


def test_a_tar_or_url_of_another_place_is_another_run(tmp_path):
    given = {"tagger": "demo-tagger", "detector": "demo-detector", "store": str(tmp_path / "store")}
    tars = [tmp_path / place / "photos.tar" for place in "ab"]
    for tar in tars:
        tar.parent.mkdir()
        tar.touch()
    for one, other in ((str(tars[0]), str(tars[1])), ("s3://a/photos", "s3://b/photos")):
        recipe = label_recipe(one, **given)
        Run(LocalStore(tmp_path / "store"), recipe.name).note("recipe", recipe.model_dump(mode="json"))
        with pytest.raises(FatalError, match="another name"):
            label_recipe(other, **given)
    assert label_recipe("s3://a/photos/", **given).name == "photos"


def test_another_machine_knows_the_folder_of_a_run(machine):
    given = {"tagger": "demo-tagger", "detector": "demo-detector", "store": f"memory://{uuid4().hex}"}
    machine("one")
    recipe = label_recipe("s3://a/photos", **given)
    Run(open_store(given["store"]), recipe.name).note("recipe", recipe.model_dump(mode="json"))
    machine("other")
    with pytest.raises(FatalError, match="another name"):
        label_recipe("s3://b/photos", **given)
