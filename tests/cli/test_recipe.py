"""`rlip recipe` as users see it: values with their origin, mistakes of several recipes at once, and what differs."""

import json
import re
from functools import partial
from pathlib import Path

import pytest
import rlip_command

from pipeline.run.recipe_files import load_recipe

BASE = """
[[data.sources]]
name = "mine"
images = "images"
annotations = "instances.json"
[caption]
draws = 3
"""
TRAINING = """
extends = "base.toml"
[pretrain]
variants = ["given"]
[pretrain.settings]
official = true
shortest = [480, 512]
lr = 1e-3
"""


recipe = partial(rlip_command.rlip, "recipe")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a recipe that extends another."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.toml").write_text(BASE)
    (tmp_path / "train.toml").write_text(TRAINING)
    return tmp_path


def test_each_value_is_shown_with_where_it_comes_from(folder):
    done = recipe("show", "train.toml", "--json", "--set", "caption.top_p=0.5", "--set", "data.sources.0.split=val")
    assert done.exit_code == 0, done.output
    found = {name: (each["value"], each["from"]) for name, each in json.loads(done.stdout).items()}
    assert found["caption.draws"] == (3, "base.toml") and found["caption.top_p"] == (0.5, "--set")
    assert found["pretrain.settings.lr"] == (1e-3, "train.toml") and found["pretrain.settings.epochs"] == (
        20,
        "default",
    )
    assert found["pretrain.settings.shortest"] == ([480, 512], "train.toml")
    assert found["pretrain.settings.crop"] == (0.5, "official = true")
    assert found["pretrain.settings.network.official_compat"] == (True, "official = true")
    assert found["train_tagger.network.official_compat"] == (False, "default")
    assert found["data.sources.0.images"] == ("images", "base.toml")
    assert found["data.sources.0.format"] == ("coco", "default") and found["data.sources.0.split"] == ("val", "--set")
    assert found["name"] == ("train", "default")


def test_a_section_is_shown_as_a_recipe_has_it(folder):
    lines = recipe("show", "train.toml", "--section", "pretrain").output.splitlines()
    assert "[pretrain.settings.network]" in lines and "[caption]" not in lines
    assert [line.split("#")[1].strip() for line in lines if line.startswith("lr = 0.001 ")] == ["train.toml"]
    wrong = recipe("show", "train.toml", "--section", "pre")
    assert wrong.exit_code == 1 and "no such section; it has name, store" in wrong.output


def test_the_price_of_padding_is_beside_its_setting(folder):
    def note(**settings: int) -> tuple[str, list[float]]:
        words = [word for name, value in settings.items() for word in ("--set", f"pretrain.settings.{name}={value}")]
        lines = recipe("show", "train.toml", "--section", "pretrain.settings", *words).output.splitlines()
        (found,) = [line.partition("; ")[2] for line in lines if line.startswith("bucket = ")]
        return re.sub(r"\S+%", "P", found), [float(share) for share in re.findall(r"(\S+)%", found)]

    words, (of_eight, sorted_eight) = note()
    assert words == "a micro-batch of 8 is P padding, with bucket = 16 P" and of_eight > 10 > sorted_eight
    words, (of_two, _) = note(micro_batch=2)
    assert words.startswith("a micro-batch of 2 is P padding") and of_two < of_eight
    assert note(bucket=2) == ("a micro-batch of 8 is P padding", [sorted_eight])


def test_a_list_that_is_replaced_keeps_no_origin_of_the_one_before(folder):
    (folder / "more.toml").write_text(
        'extends = "base.toml"\n[[data.sources]]\nname = "yours"\nannotations = "a.json"\nimages = "i"\nsplit = "x"\n'
    )
    (folder / "last.toml").write_text('extends = "more.toml"\n' + BASE)
    found = json.loads(recipe("show", "last.toml", "--json").output)
    assert found["data.sources.0.split"] == {"value": "train", "from": "default"}


def test_the_mistakes_of_all_recipes_are_reported_with_their_files(folder):
    (folder / "wrong.toml").write_text('extends = "base.toml"\n[caption]\ntop_p = 2\n[run]\nworkers = 0\n')
    done = recipe("check", "base.toml", "wrong.toml", "none.toml")
    assert done.exit_code == 1 and "Traceback" not in done.output
    assert "ok     base.toml" in done.output and "error  wrong.toml" in done.output
    assert "wrong.toml: caption.top_p = 2: give at most 1" in done.output
    assert "wrong.toml: run.workers = 0: give at least 1" in done.output
    assert "no recipe at none.toml" in done.output
    names = sorted(path.name for path in folder.glob("*.toml"))
    found = {each["recipe"]: len(each["errors"]) for each in json.loads(recipe("check", "--json", *names).stdout)}
    assert found == {"base.toml": 0, "train.toml": 1, "wrong.toml": 2}
    assert recipe("check", "base.toml").exit_code == 0


def test_two_recipes_are_compared_defaults_included(folder):
    (folder / "other.toml").write_text('extends = "base.toml"\n[caption]\ndraws = 3\ntop_p = 0.9\ntop_k = 5\n')
    found = json.loads(recipe("diff", "base.toml", "other.toml", "--json").output)
    assert found == {"caption.top_k": {"before": 50, "after": 5}, "name": {"before": "base", "after": "other"}}
    shown = recipe("diff", "base.toml", "other.toml").output
    assert "caption.top_k" in shown and "caption.draws" not in shown
    assert recipe("diff", "base.toml", "base.toml", "--json").output.strip() == "{}"


@pytest.mark.parametrize("command", ["plan", "estimate"])
def test_a_plan_or_estimate_before_the_synthetic_world_is_written_says_so(command, tmp_path):
    done = rlip_command.rlip(
        command, "demo", "--set", f"data.root={tmp_path / 'world'}", "--set", f"store={tmp_path / 'store'}"
    )
    assert done.exit_code == 1 and "'demo': its synthetic world does not exist yet" in done.stderr


def test_a_relative_store_that_is_elsewhere_is_not_begun_anew_without_a_word(folder, monkeypatch, recwarn):
    (folder / "out" / "store" / "artifacts").mkdir(parents=True)
    (folder / "recipes").mkdir()
    (folder / "base.toml").rename(folder / "recipes" / "base.toml")
    load_recipe(Path("recipes/base.toml"))
    monkeypatch.chdir("/")
    load_recipe(folder / "recipes" / "base.toml", [f"store={folder}/out/store"])
    assert not recwarn.list
    with pytest.warns(UserWarning, match=f"no store in /, .* to use {folder}/out/store, "):
        load_recipe(folder / "recipes" / "base.toml")
