"""An invalid recipe fails before any work, with file, field, value and what is allowed."""

import warnings
from pathlib import Path

import pytest

from pipeline.run.dag import build_steps
from pipeline.run.recipe_files import load_recipe, recorded_recipe
from pipeline.runtime.settings import parse_toml, toml_value
from scenes import SAMPLE_WEIGHTS
from storage.errors import FatalError
from storage.local_store import LocalStore
from storage.runs import Run

GOOD = """
name = "r"
[data]
label = ["coco"]
tagger = ["coco"]
[[data.sources]]
name = "coco"
format = "coco"
images = "images"
annotations = "instances.json"
"""


def _recipe(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "r.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("change, words", [
    ('name = "r"\ncolour = 3', ["r.toml", "colour", "unknown name", "caption"]),
    ('name = "a/b"', ["name", "a/b"]),
    ('name = "r"\n[caption]\ntop_p = 1.5', ["caption.top_p = 1.5", "give at most 1"]),
    ('name = "r"\n[caption]\ntop_q = 1', ["caption.top_q", "unknown name", "top_p"]),
    ('name = "r"\n[run]\nworkers = "many"', ["run.workers = 'many'", "give a whole number"]),
    ('name = "r"\n[shard]\nthreshold = -1', ["shard.threshold = -1", "give at least 0"]),
    ('name = "r"\n[shard]\nrule = "most"', ["shard.rule = 'most'", "give one of 'all', 'best' or 'posterior'"]),
    ('name = "r"\ncaption = 3', ["caption = 3: give a section"]),
    ('name = "r"\n[pretrain.settings]\nseed = 2', ["r.toml", "pretrain.settings.seed = 2", "pretrain.seeds = [2]"]),
    ('name = "r"\n[pretrain]\nseeds = 3', ["pretrain.seeds = 3: give a list"]),
    ('name = "r"\n[shard.exclude]\nids = "a"', ["shard.exclude: write its heading in double brackets: [[shard"]),
    ('name = "r"\n[train_tagger.mix]\nkind = "proportional"\nweights = { vg = 2 }', ["mix.weights: 'vg' is not a da"]),
    ('name = "r"\n[caption.recorded]\ncoco = "a"', ["caption.recorded: give a list"]),
    ("name = ", ["not a readable TOML"]),
])  # fmt: skip
def test_mistakes_are_named(tmp_path, change, words):
    path = _recipe(tmp_path, GOOD.replace('name = "r"', change, 1))
    with pytest.raises(FatalError) as caught:
        load_recipe(path)
    for word in words:
        assert word in str(caught.value)
    assert "Input should" not in str(caught.value) and "Value error" not in str(caught.value)


def test_weights_of_a_mix_may_name_any_dataset_where_nothing_is_trained(tmp_path):
    mix = 'train_tagger.mix={kind = "proportional", weights = {vg = 2}}'
    recipe = load_recipe(_recipe(tmp_path, GOOD), [mix, "tag.method=prior"])
    assert recipe.train_tagger.mix.weights == {"vg": 2}


EXCLUDED = '[[shard.exclude]]\nids = "test.ids"\nreason = "test"\ndatasets = ["cocoa"]\n'
FITTED = 'shard.calibration={"ride" = [1.0, 0.0]}'
GIVEN = ('pretrain.variants=["given"]', "pretrain.settings.official=true")
NONE = 'pretrain.variants=["none"]'


@pytest.mark.parametrize("text, asked, message, harmless", [
    (GOOD + EXCLUDED, (), r"shard\.exclude\.0 excludes nothing: no source is named cocoa; sources are coco", ()),
    (GOOD, (FITTED,), r"r\.toml: shard\.calibration has no effect", ("shard.confidence=calibrated",)),
    (GOOD.replace('tagger = ["coco"]', "") + "[shard]\n", (),
     r"r\.toml: the run ends with triplets and does not use shard: no tagger is",
     ("tag.method=prior", "tag.weights=demo-tagger", "run.until=parse")),
    (GOOD, GIVEN, r'r\.toml: .* it shows nothing; set shard\.without_relations = "drop"',
     (NONE, "pretrain.settings.self_pairs=true", "shard.without_relations=drop", "run.until=shard")),
    (GOOD.replace("tagger =", "test ="), (*GIVEN, "shard.without_relations=drop"),
     r'r\.toml: .* canonical ones; set pretrain\.settings\.predicate_form = "pred',
     ("data.test=[]", NONE, "run.until=shard",
      *(f"pretrain.settings.predicate_form={form}" for form in ("predicate", "surface")))),
], ids=["unknown dataset", "unused calibration", "no tagger", "empty images", "other texts"])  # fmt: skip
def test_settings_without_effect_or_with_a_harmful_one_are_warned_of(tmp_path, text, asked, message, harmless):
    recipe = _recipe(tmp_path, text)
    with pytest.warns(UserWarning, match=message):
        load_recipe(recipe, asked)
    for each in harmless:
        with warnings.catch_warnings(action="error"):
            load_recipe(recipe, [*asked, each])


def test_a_recipe_may_come_from_a_windows_editor(tmp_path):
    path = _recipe(tmp_path, GOOD)
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())
    assert load_recipe(path).name == "r"


@pytest.mark.parametrize("right, wrong, meant", [
    ("[data]\n", "[dta]\n", "dta: unknown name (did you mean 'data'?)"),
    ("[[data.sources]]", "[[data.source]]", "data.source: unknown name (did you mean 'sources'?)"),
    ("images = ", "image = ", "data.sources.0.image: unknown name (did you mean 'images'?)"),
])  # fmt: skip
def test_a_misspelt_name_is_one_mistake(tmp_path, right, wrong, meant):
    text = '[data]\n[[data.sources]]\nname = "mine"\nimages = "."\nannotations = "a.json"\n'
    if wrong == "[dta]\n":
        text = text.replace("data.", "dta.")
    with pytest.raises(FatalError) as caught:
        load_recipe(_recipe(tmp_path, text.replace(right, wrong)))
    (line,) = str(caught.value).splitlines()
    assert meant in line


@pytest.mark.parametrize(
    ("asked", "meant"), [("demoo", "demo"), ("demoo.toml", "demo"), ("recipes/min.toml", "mine.toml")]
)
def test_a_misspelt_recipe_is_guessed(tmp_path, monkeypatch, asked, meant):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "mine.toml").write_text(GOOD)
    with pytest.raises(FatalError, match="no recipe at") as caught:
        load_recipe(Path(asked))
    assert f"(did you mean {meant!r}?)" in str(caught.value)


def test_naming_only_what_trains_the_tagger_labels_the_other_datasets_or_all(tmp_path):
    alone = GOOD.replace('label = ["coco"]\n', "")
    both = alone + '[[data.sources]]\nname = "mine"\nimages = "."\nannotations = "mine.json"\n'
    assert [load_recipe(_recipe(tmp_path, text)).data.label for text in (alone, both)] == [("coco",), ("mine",)]
    with pytest.warns(UserWarning, match=r"r\.toml: with data\.mix or data\.test, no dataset is labelled unless"):
        assert load_recipe(_recipe(tmp_path, both), ['data.test=["mine"]']).data.label == ()
    for chosen in ([], ["run.until=train_tagger"], ['pretrain.variants=["given"]', "shard.without_relations=drop"]):
        with warnings.catch_warnings(action="error"):
            asked = ['data.test=["mine"]', *(chosen or ["data.label=[]"])]
            assert load_recipe(_recipe(tmp_path, both), asked).data.label == ()


def test_a_recipe_extends_another_in_its_folder_or_in_the_project(tmp_path):
    (tmp_path / "base.toml").write_text(GOOD.replace('name = "r"', 'name = "base"\n[caption]\ntop_p = 0.5\ndraws = 3'))
    recipe = load_recipe(_recipe(tmp_path, 'extends = "base.toml"\n[caption]\ndraws = 4\n'))
    assert (recipe.name, recipe.caption.top_p, recipe.caption.draws) == ("r", 0.5, 4)
    assert recipe.data.label == ("coco",)
    (tmp_path / "below").mkdir()
    beneath = load_recipe(_recipe(tmp_path / "below", 'extends = "../base.toml"\n'))
    assert beneath.data.root == Path(tmp_path, "below", ".."), "its images lie where the base has them"
    for name in ("coco_sample.toml", "coco_sample"):
        project = load_recipe(_recipe(tmp_path, f'extends = "{name}"\n[data]\nroot = "elsewhere"\n'))
        assert (project.name, project.data.root, project.train_tagger.epochs) == ("r", Path("elsewhere"), 20)


def test_no_world_is_drawn_into_the_folder_of_other_sources_than_those_of_the_extended_recipe(tmp_path):
    mine = '[[data.sources]]\nname = "mine"\nimages = "."\nannotations = "a.json"\n[tag]\nweights = "demo-tagger"\n'
    text = f'extends = "demo"\n[data]\nlabel = ["mine"]\ntagger = []\ntest = []\n{mine}'
    recipe = load_recipe(_recipe(tmp_path, text))
    assert recipe.scenes is None and (recipe.name, recipe.data.root) == ("r", tmp_path)
    there = text.replace("[data]", '[data]\nroot = "out/scenes/demo"')
    assert load_recipe(_recipe(tmp_path, there)).scenes is not None, "the sources lie in the world"


def test_a_recipe_has_a_name_in_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_recipe(Path("demo")).scenes is not None
    assert load_recipe(Path("paper/parseda_r50_vg_coco")).name == "parseda_r50_vg_coco"
    (tmp_path / "demo.toml").write_text(GOOD)
    assert load_recipe(Path("demo")).scenes is None, "the folder's own recipe counts first"
    with pytest.raises(FatalError, match=rf"no recipe at none; recipes in {tmp_path}: demo.toml; .*demo"):
        load_recipe(Path("none"))


def test_a_file_that_is_only_beside_the_recipe_is_found_there(tmp_path, monkeypatch):
    for folder in ("here/data", "there/data", "there/captioner"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "there" / "r.toml").write_text(
        GOOD.replace("[data]", '[data]\nroot = "data"')
        + '[caption]\nmodel = "captioner"\n[train_tagger]\npretrained = "start.safetensors"\n'
        + '[parse]\nmodel = "captioner"\n'
    )
    monkeypatch.chdir(tmp_path / "here")
    path = Path("../there/r.toml")
    recipe = load_recipe(path)
    assert recipe.data.root == Path("data"), "the folder where the command runs counts first"
    assert (recipe.caption.model, recipe.train_tagger.pretrained) == ("../there/captioner", Path("start.safetensors"))
    assert recipe.parse.model == "../there/captioner"
    assert load_recipe(path, ["caption.model=captioner"]).caption.model == "captioner"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "r.toml").write_text('extends = "../there/r.toml"\n')
    assert load_recipe(Path("../mine/r.toml")).caption.model == "../mine/../there/captioner", "beside who states it"


def test_sample_weights_are_named_and_recorded_by_name(tmp_path):
    recipe = load_recipe(Path("demo"), ["tag.weights=demo-tagger"])
    assert (recipe.caption.model, recipe.tag.weights) == ("demo-captioner", "demo-tagger")
    files = {step.name: step.stage(step.settings).files() for step in build_steps(recipe)}
    assert all(path.exists() for paths in files.values() for path in paths.values())
    assert files["caption"]["captioner"] == SAMPLE_WEIGHTS["demo-captioner"]
    assert files["import_tagger"]["model.safetensors"].is_relative_to(SAMPLE_WEIGHTS["demo-tagger"])
    assert files["pretrain:pseudo"]["initial"] == SAMPLE_WEIGHTS["demo-detector"] / "model.safetensors"


@pytest.mark.parametrize("text, message", [
    ('extends = "none.toml"', r"no recipe at .*none\.toml"),
    ("extends = 3", "name one recipe"),
    ('extends = ["base.toml", 3]', "name one recipe"),
    (GOOD.replace('label = ["coco"]', 'label = ["cooc"]'), r"cooc.*sources are \['coco'\]"),
    (GOOD.replace('tagger = ["coco"]', "") + "[pretrain]\n", r"pseudo.*data\.tagger"),
])  # fmt: skip
def test_what_does_not_fit_together_is_reported(tmp_path, text, message):
    with pytest.raises(FatalError, match=message):
        load_recipe(_recipe(tmp_path, text))


def test_overrides_reach_sections_and_list_members(tmp_path):
    path = _recipe(tmp_path, GOOD)
    recipe = load_recipe(path, ["caption.top_p=0.5", "data.root=/d", "data.sources.0.images=pictures", "name=other"])
    assert recipe.caption.top_p == 0.5
    assert recipe.name == "other"
    assert recipe.resolved().data.sources[0].images == Path("/d/pictures")
    with pytest.raises(FatalError, match=r"""give a list, e\.g\. .*; in a shell, --set 'data\.label=\["coco"\]'"""):
        load_recipe(path, ["data.label=[coco]"])


@pytest.mark.parametrize("value", [1e-20, float("inf"), '🦓 "x"\n', [1, "é"], {"a b": [True]}])
def test_a_value_is_written_as_toml_that_reads_the_same(value):
    assert parse_toml(f"value = {toml_value(value)}") == {"value": value}


@pytest.mark.parametrize("override", ["caption.top_p", "=1", "data.sources.7.images=x", "data.sources.x.images=y"])
def test_overrides_that_name_nothing_are_refused(tmp_path, override):
    with pytest.raises(FatalError, match="--set"):
        load_recipe(_recipe(tmp_path, GOOD), [override])


def test_several_bases_are_laid_over_each_other_in_order_and_each_once(tmp_path):
    (tmp_path / "sets.toml").write_text(GOOD.replace('name = "r"', "[caption]\ndraws = 2\ntop_k = 9"))
    (tmp_path / "one.toml").write_text('extends = "sets.toml"\n[caption]\ndraws = 3\n')
    (tmp_path / "two.toml").write_text('extends = "sets.toml"\n[caption]\ntop_p = 0.5\n')
    recipe = load_recipe(_recipe(tmp_path, 'extends = ["one.toml", "two.toml"]\n'))
    assert (recipe.caption.draws, recipe.caption.top_p, recipe.caption.top_k) == (3, 0.5, 9)


def test_a_mistake_is_reported_with_the_file_that_makes_it(tmp_path):
    (tmp_path / "base.toml").write_text(GOOD + "[caption]\ntop_p = 3\n[train_tagger]\nbatch = 12\n")
    path = _recipe(tmp_path, 'extends = "base.toml"\n[shard]\nthreshold = 2\n')
    with pytest.raises(FatalError) as caught:
        load_recipe(path, ["run.workers=0"])
    starts = (
        "--set: run.workers = 0", f"{tmp_path}/base.toml: caption.top_p = 3", f"{path}: shard.threshold = 2",
        f"{tmp_path}/base.toml: train_tagger: batch: 12 images",
    )  # fmt: skip
    lines = str(caught.value).splitlines()
    assert len(lines) == len(starts) and all(any(line.startswith(start) for line in lines) for start in starts)


def test_former_names_of_settings_still_work_with_a_warning_and_keep_their_term_in_keys(tmp_path):
    former = GOOD + '[pretrain]\narms = ["none"]\n[pretrain.settings]\nclip = 0.5\nloaders = 3\n'
    with pytest.warns(FutureWarning, match=r"r\.toml: pretrain\.settings\.clip is now called .*max_grad_norm"):
        recipe = load_recipe(_recipe(tmp_path, former), ["train_tagger.hosts=1"])
    settings = recipe.pretrain.settings
    assert (settings.max_grad_norm, settings.num_workers, recipe.pretrain.variants) == (0.5, 3, ("none",))
    keyed = settings.row_settings()
    assert keyed["clip"] == 0.5 and "max_grad_norm" not in keyed
    with pytest.raises(FatalError, match=r"clip is the former name of .*max_grad_norm, which is set too"):
        load_recipe(_recipe(tmp_path, former + "max_grad_norm = 1.0\n"))


def test_a_former_name_counts_over_the_present_one_of_an_extended_recipe(tmp_path):
    (tmp_path / "base.toml").write_text(GOOD + "[train_tagger]\nmax_grad_norm = 1.0\n")
    path = _recipe(tmp_path, 'extends = "base"\n[train_tagger]\nclip = 0.25\n')
    with pytest.warns(FutureWarning):
        assert load_recipe(path).train_tagger.max_grad_norm == 0.25


def test_limits_of_other_sections_keep_their_meaning_in_recipes_and_records(tmp_path):
    limits = "[tag]\naudit_floor = 0.6\n[run]\nmax_reject_share = 0.3\n[run.checks]\nmax_reject_share = 0.2\n"
    path = _recipe(tmp_path, GOOD + limits)
    with pytest.warns(FutureWarning, match="audit_floor is now called run.checks.min_overall_average_precision"):
        recipe = load_recipe(path)
    checks = recipe.run.checks
    assert (checks.max_overall_reject_share, checks.max_reject_share) == (0.3, 0.2)
    assert (checks.min_overall_average_precision, checks.min_average_precision) == (0.6, 0)
    run = Run(LocalStore(tmp_path / "store"), recipe.name)
    earlier = recipe.model_dump(mode="json") | {"run": {"max_reject_share": 0.3, "checks": {"max_reject_share": 0.2}}}
    run.note("recipe", earlier | {"tag": {"audit_floor": 0.6}})
    recorded = recorded_recipe(run)
    assert recorded is not None and recorded.run.checks == checks
    with pytest.raises(FatalError, match=r"r\.toml: run = 3: give a section"):
        load_recipe(_recipe(tmp_path, GOOD.replace("[data]", "run = 3\n[data]") + "[tag]\naudit_floor = 0.6\n"))
