"""docs/datasets.md, From a COCO-format dataset to labels: writes its recipes and runs its commands on six images."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import webdataset
from rlip_command import output_of, rlip
from tiny_chain import World

from pipeline.cli.store import push_run
from pipeline.stages.import_tagger import ImportTaggerSettings, ImportTaggerStage
from storage.local_store import LocalStore
from storage.object_store_artifacts import ObjectStoreArtifacts
from storage.runs import Run


@pytest.fixture
def workplace(finished: World, root: Path, tmp_path: Path) -> Path:
    """A folder with six images, where a run named `demo` has a tagger."""
    shutil.copytree(finished.store, tmp_path / "out" / "store")
    shutil.copytree(tmp_path / "out/store/runs/tiny", tmp_path / "out/store/runs/demo")
    given = json.loads((finished.data / "coco/annotations/instances_train.json").read_bytes())
    images = sorted(given["images"], key=lambda image: image["id"])[:6]
    kept = {image["id"] for image in images}
    (tmp_path / "mine").mkdir()
    for image in images:
        shutil.copy(finished.data / "coco/train" / image["file_name"], tmp_path / "mine")
    given |= {"images": images, "annotations": [a for a in given["annotations"] if a["image_id"] in kept]}
    (tmp_path / "mine" / "instances.json").write_text(json.dumps(given))
    return tmp_path


def printed(folder: Path, *words: str) -> str:
    """What a command prints. A run goes without Prefect, whose server takes seconds to start."""
    return output_of(*words, *["--direct"] * (words[0] == "run"), cwd=folder)


@pytest.mark.timeout(900)
def test_the_page_leads_from_six_pictures_to_labels(workplace, root):
    pages = (root / "docs" / "datasets.md").read_text()
    page = pages.partition("\n## From a COCO-format dataset to labels")[2].partition("\n## ")[0]
    recipe, extended = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    assert len([line for line in recipe.splitlines() if line]) <= 10
    (workplace / "mine" / "mine.toml").write_text(recipe)
    commands = re.findall(r"^    rlip (.*)$", page, re.MULTILINE)
    assert len(commands) >= 8
    said = {command: printed(workplace, *shlex.split(command)) for command in commands}
    assert "6 images →" in said["show mine tag"]
    assert Path(workplace, said["report mine --pictures 6"].split("Report: ")[1].strip()).is_file()
    assert (workplace / "out/export/mine-csv/labels.csv").is_file()
    (tar,) = (workplace / "mine-shards").rglob("*.tar")
    samples = list(webdataset.WebDataset(str(tar), shardshuffle=False))
    assert len(samples) == 6 and all({"jpg", "json"} <= sample.keys() for sample in samples)
    output_of("export", "mine", "--format", "parquet", "--out", "tables", cwd=workplace)
    assert {"labels.parquet", "candidates.parquet", "dropped.parquet"} <= {
        p.name for p in (workplace / "tables").iterdir()
    }
    (workplace / "mine" / "more.toml").write_text(extended)
    plan = {row["step"]: row["due"] for row in json.loads(output_of("plan", "mine/more.toml", "--json", cwd=workplace))}
    assert plan == {"ingest": 0, "caption": 1, "parse": 1, "import_tagger": 0, "tag": 1, "shard:pseudo": 1}
    store = LocalStore(workplace / "out" / "store")
    output_of("run", "mine/mine.toml", "--direct", "--set", "tag.weights=demo", cwd=workplace)
    (taken,) = Run(store, "mine").artifacts("import_tagger").values()
    (trained,) = Run(store, "demo").artifacts("train_tagger").values()
    assert taken.content == trained.content, "equal weights lead to equal keys below"


def test_an_invalid_tagger_is_reported(workplace):
    (workplace / "mine" / "mine.toml").write_text(
        '[[data.sources]]\nname = "mine"\nimages = "."\nannotations = "instances.json"\n'
        '[caption]\nmodel = "demo-captioner"\n'
    )
    for weights, words in (
        ("nothing", "neither a file nor a run"),
        ("mine/instances.json", "not a .safetensors file"),
        ("mine", "no file mine/model.safetensors"),
    ):
        done = rlip("run", "mine/mine.toml", "--direct", "--set", f"tag.weights={weights}", cwd=workplace)
        assert done.exit_code == 1 and f"tag.weights = {weights}" in done.stderr and words in done.stderr, done.stderr


def test_a_tagger_of_a_remote_store_comes_with_all_its_files(finished, tmp_path):
    store = LocalStore(Path(finished.store))
    url = f"memory://{tmp_path.name}"
    push_run(Run(store, "tiny"), ObjectStoreArtifacts(url))
    files = ImportTaggerStage(ImportTaggerSettings(weights="tiny", store=url)).files()
    (trained,) = Run(store, "tiny").artifacts("train_tagger").values()
    assert files.keys() == trained.manifest.files.keys()
