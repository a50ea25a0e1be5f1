"""Published shards: other readers read the same bytes, a copy can be checked, and the description is right."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from rlip_command import rlip
from run_builder import RunBuilder, pairs, relations

from pipeline.interop.publish_shards import CHECKSUMS, Published, checksum_faults, publish_shards
from pipeline.labels.label_rows import reviewable_labels
from pipeline.labels.verdict_log import VerdictLog
from pipeline.labels.verdicts import Verdict
from pipeline.runtime.execute import WorkItem, execute
from pipeline.runtime.stage import Inputs
from pipeline.stages.shard import ShardSettings, ShardStage
from storage.errors import FatalError
from storage.keys import KeyTerms
from storage.local_store import LocalStore
from storage.runs import Run
from storage.shards.index import index_path, read_index

TARS = ["data/extra-0000-000.tar", "data/toys-0000-000.tar", "data/toys-0000-001.tar", "data/toys-0001-000.tar"]
BOXES = [("person", 10.0, 10.0, 80.0, 80.0), ("horse|<b>", 20.0, 50.0, 60.0, 60.0)]


def picture(book: RunBuilder, dataset: str, image_id: int, side: int, form: str) -> dict[str, Any]:
    """A row of `images` and its noisy image, which no format can reduce much."""
    row = book.image(image_id, BOXES, [(0, "riding", 1)], dataset)
    pixels = np.random.default_rng(min(image_id, 15)).integers(0, 255, (side, side, 3), np.uint8)
    Image.fromarray(pixels).save(book.pictures / dataset / row["uri"], form)
    return row | {"width": side, "height": side}


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of a run with two partitions of `toys`, the first with two tars, and one of `extra`, whose first images
    have no relations."""
    folder = tmp_path_factory.mktemp("packed")
    book = RunBuilder(Run(LocalStore(folder / "store"), "toy"), folder / "pictures")
    for partition, ids, side, form in (
        ("toys/0000", (1, 2, 3), 350, "PNG"),
        ("toys/0001", (4,), 64, "JPEG"),
        ("extra/0000", range(10, 18), 64, "JPEG"),
    ):
        dataset = partition.split("/")[0]
        book.add("ingest", partition, [picture(book, dataset, i, side, form) for i in ids])
        scored = [relations(i, *([] if 10 <= i < 16 else [(0, "ride", 1, 0.9), (1, "near", 0, 0.1)])) for i in ids]
        for label in (label for row in scored for label in row["relations"]):
            label["caption"] = 0
        book.add("tag", partition, scored, candidates=[pairs(i, (0, "ride", 1, 1)) for i in ids])
    pack(book.run, folder, max_bytes=2**20, uncertain=0.05)
    book.run.note("recipe", {"name": "toys_recipe"})
    return folder / "store"


def pack(run: Run, folder: Path, **settings: Any) -> None:
    """Pack the shards of a run, whose images are in `folder`."""
    stage, keys = ShardStage(ShardSettings(**settings).planned()), {}
    stage.open(Inputs({}))
    for partition, tagged in run.artifacts("tag").items():
        dataset = partition.split("/")[0]
        stage.image_folders = {dataset: folder / "pictures" / dataset}
        terms = stage.row_settings() | {"partition": partition}
        places = {"images": (run.artifacts("ingest")[partition].folder,), "relations": (tagged.folder,)}
        found = KeyTerms("shard", stage.version, terms, {}, {"list": "0" * 64})
        item = WorkItem("shard:pseudo", partition, found, places)
        keys[partition] = execute(stage, item, run.store, lambda done, total, note="": None).key
    run.record("shard:pseudo", "shard", keys)


@pytest.fixture
def run(packed: Path, tmp_path: Path) -> Run:
    """That run, in a store that a test may change."""
    return Run(LocalStore(Path(shutil.copytree(packed, tmp_path / "store"))), "toy")


@pytest.fixture(scope="module")
def published(packed: Path) -> Path:
    """A published folder."""
    made = packed.with_name("made")
    publish_shards(Run(LocalStore(packed), "toy"), made, license_="cc-by-4.0", indexes=["wids", "energon"])
    return made


@pytest.fixture
def folder(published: Path, tmp_path: Path) -> Path:
    """A copy of it, as somebody else would get it."""
    return Path(shutil.copytree(published, tmp_path / "copy"))


def members(folder: Path) -> dict[str, dict[str, bytes]]:
    """Key → extension → bytes of all samples, by offset."""
    found: dict[str, dict[str, bytes]] = {}
    for tar in sorted((folder / "data").glob("*.tar")):
        data = tar.read_bytes()
        for row in read_index(tar).to_pylist():
            member = data[row["offset"] : row["offset"] + row["size"]]
            assert hashlib.sha256(member).hexdigest() == row["digest"] and row["shard"] == tar.name
            found.setdefault(row["key"], {})[row["extension"]] = member
    return found


def everything(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_folder_holds_the_tars_of_the_artifacts_byte_for_byte_and_again_the_same(run, published, tmp_path):
    made = publish_shards(run, tmp_path / "made", license_="cc-by-4.0", indexes=["wids", "energon"])
    assert sorted(name for name in made.files if name.endswith(".tar")) == TARS
    assert (made.tars, made.samples) == (4, 12)
    toys = run.artifacts("shard:pseudo")["toys/0000"]
    for number in (0, 1):
        tar = tmp_path / f"made/data/toys-0000-{number:03d}.tar"
        assert tar.read_bytes() == toys.file(f"shard-{number:03d}.tar").read_bytes()
    assert len(members(tmp_path / "made")) == 12
    assert everything(tmp_path / "made") == everything(published)


def test_a_copy_verifies_with_and_without_this_project(folder):
    done = rlip("shards", "verify", folder)
    assert done.exit_code == 0, done.stderr
    assert "12 samples in 4 tars match" in done.stdout
    assert subprocess.run(["sha256sum", "--check", "--quiet", CHECKSUMS], cwd=folder).returncode == 0


def test_a_changed_byte_is_named_by_file_and_member(folder):
    tar = folder / TARS[3]
    place = read_index(tar).to_pylist()[0]
    data = bytearray(tar.read_bytes())
    data[place["offset"] + 100] ^= 1
    tar.write_bytes(data)
    done = rlip("shards", "verify", folder)
    assert done.exit_code == 1
    assert f"{tar}: does not match {CHECKSUMS}" in done.stdout
    assert f"{tar}: {place['key']}.{place['extension']}: has different bytes than the index says" in done.stdout
    assert "Traceback" not in done.stderr


def test_missing_and_added_files_are_named(folder):
    (folder / TARS[0]).unlink()
    index_path(folder / TARS[1]).unlink()
    (folder / "data/toys-0002-000.tar").write_bytes(b"x")
    (folder / ".cache").mkdir()
    (folder / ".cache/left by a download").touch()
    done = rlip("shards", "verify", folder, "--json")
    assert done.exit_code == 1
    faults = {(Path(f["path"]).name, f["fault"]) for f in json.loads(done.stdout)["faults"]}
    assert ("extra-0000-000.tar", "is missing") in faults
    assert ("toys-0000-000.index.parquet", "is missing") in faults
    assert ("toys-0002-000.tar", f"is not listed in {CHECKSUMS}") in faults
    assert any(name == "toys-0000-000.tar" and "has no index" in fault for name, fault in faults)
    assert len(faults) == 4


@pytest.mark.parametrize("line", [f"{'0' * 64}  ../secret", f"{'0' * 64}  /etc/passwd", "no digest"])
def test_checksums_that_lead_out_of_the_folder_are_refused(folder, line):
    (folder / CHECKSUMS).write_text(line + "\n")
    done = rlip("shards", "verify", folder)
    assert done.exit_code == 1 and "line 1 is not" in done.stderr


def test_a_folder_with_something_in_it_is_refused_and_nothing_half_made_stays(run, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    with pytest.raises(FatalError, match="already exists"):
        publish_shards(run, tmp_path / "full")
    (tmp_path / "empty").mkdir()
    publish_shards(run, tmp_path / "empty")
    tar = run.artifacts("shard:pseudo")["toys/0001"].file("shard-000.tar")
    damaged = tar.read_bytes()[:-1]
    tar.unlink()
    tar.write_bytes(damaged)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(FatalError, match="bytes do not match"):
        publish_shards(run, tmp_path / "new")
    assert sorted(tmp_path.iterdir()) == before


def test_a_step_without_shards_is_refused_with_those_that_have_some(run, tmp_path):
    for step in ("tag", "shard:given"):
        with pytest.raises(FatalError, match="its steps with shards: shard:pseudo"):
            publish_shards(run, tmp_path / "new", step)
    with pytest.raises(FatalError, match="--license"):
        publish_shards(run, tmp_path / "new", license_="mine: all")


def front_matter(folder: Path) -> tuple[dict[str, Any], str]:
    _, front, text = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(front), text


def test_the_card_states_counts_choice_audit_and_lineage(folder):
    front, text = front_matter(folder)
    assert front["license"] == "cc-by-4.0"
    assert front["size_categories"] == ["n<1K"]
    assert [config["config_name"] for config in front["configs"]] == ["default", "extra", "toys"]
    for line in (
        "| images | 12 |",
        "| of these with relations | 6 |",
        "| boxes | 24 |",
        "| relations | 6 (0.50 per image) |",
        r"| horse\|\<b\> | 12 | 50.0% |",
        "| ride | 6 | 100.0% |",
        "probability ≥ 0.45",
        "| toys | 4 | 4 | 4 | 1.000 | 1.000 | no |",
        "of recipe `toys\\_recipe`",
        f"| shard:pseudo | {ShardStage.version} | 3 |",
        "`" + "0" * 64 + "`",
    ):
        assert line in text
    assert "near" not in text  # it is below the threshold
    assert "| byte copies of others | 2 |" in text


def test_the_card_names_the_tars_of_a_dataset_whatever_the_length_of_their_numbers(run, tmp_path):
    keys = run.keys("shard:pseudo")
    run.record("shard:pseudo", "shard", keys | {"toys/10000": keys["toys/0001"]})
    publish_shards(run, tmp_path / "made")
    _, extra, toys = (config["data_files"][0]["path"] for config in front_matter(tmp_path / "made")[0]["configs"])
    three, four, five = ("[0-9]" * digits for digits in (3, 4, 5))
    assert extra == f"data/extra-{four}-{three}.tar"
    assert toys == [f"data/toys-{four}-{three}.tar", f"data/toys-{five}-{three}.tar"]


def test_the_card_says_what_reviewers_found_and_that_scenes_are_drawn(run, tmp_path):
    run.note("recipe", {"name": "toys", "scenes": {"seed": 1}})
    log = VerdictLog(tmp_path / "elsewhere")
    for label in reviewable_labels(run):
        said = "accept", "ada", "2026-01-31T12:00:00+00:00", "person", "horse"
        log.append([Verdict(label.relation, *said, queue="audit")])
    publish_shards(run, tmp_path / "made", verdicts=log.folder)
    _, text = front_matter(tmp_path / "made")
    assert "12 synthetic images of extra, toys" in text
    # The digest of all images is the same, so their equal labels are one.
    assert "## Precision by reviewers" in text and "on 1 label of the random audit, 1 of them blind" in text
    assert "| ride | 1 | 1 | 1.000 | 1.000 to 1.000 |" in text


def test_the_card_audits_the_labels_that_reviewers_settled_and_says_what_the_tagger_learned_from(run, packed, tmp_path):
    log = VerdictLog(tmp_path / "verdicts")
    for label in reviewable_labels(run, all_scores=True):
        said = "accept", "ada", "2026-01-31T12:00:00+00:00", "person", "horse"
        log.append([Verdict(label.relation, *said)])
    pack(run, packed.parent, verdicts=log.folder)
    run.record("shard_tagger", "shard", {"toys/0000": "0" * 64})
    run.record("train_tagger", "train_tagger", {"toys": "1" * 64})
    publish_shards(run, tmp_path / "made")
    assert "| toys | 4 | 4 | 8 | 0.500 | 1.000 | yes |" in front_matter(tmp_path / "made")[1]
    run.note("recipe", run.read_document("recipe") | {"tag": {"weights": "tagger.safetensors"}})
    publish_shards(run, tmp_path / "imported")
    assert "| toys | 4 | 4 | 8 | 0.500 | 1.000 | unknown |" in front_matter(tmp_path / "imported")[1]


def test_the_card_audits_no_labels_of_earlier_boxes(run, tmp_path):
    scored, read = [relations(i, (0, "ride", 1, 0.9)) for i in (1, 2, 3)], {"images": ["0" * 64]}
    RunBuilder(run, tmp_path).add("tag", "toys/0000", scored, inputs=read)
    publish_shards(run, tmp_path / "made")
    assert "## Audit" not in front_matter(tmp_path / "made")[1]


def test_croissant_metadata_lead_to_the_bytes(folder, tmp_path, monkeypatch):
    # Read on import. In a shared cache, what it extracted is found by the tar's relative path alone.
    monkeypatch.setenv("CROISSANT_CACHE", str(tmp_path / "cache"))
    import mlcroissant

    found = mlcroissant.Dataset(jsonld=folder / "croissant.json")
    assert not found.metadata.ctx.issues.errors
    values = json.loads((folder / "croissant.json").read_text())
    assert values["conformsTo"].endswith("/1.1")
    stated = {each["@id"]: each["sha256"] for each in values["distribution"] if "sha256" in each}
    for name in TARS:
        assert stated[name] == hashlib.sha256((folder / name).read_bytes()).hexdigest()
    expected = members(folder)
    records = {row["labels/key"]: row["labels/labels"] for row in found.records("labels")}
    assert {_text(key) for key in records} == set(expected)
    assert all(expected[_text(key)]["json"].decode() == _text(text) for key, text in records.items())
    counted = sum(
        row["statistics/count"] for row in found.records("statistics") if _text(row["statistics/name"]) == "images"
    )
    assert counted == 12


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def test_wids_reads_the_same(folder):
    import wids

    data = wids.ShardListDataset(
        str(folder / "wids.json"), localname=lambda url: str(url), transformations=[lambda sample: sample]
    )
    found = {}
    for number in range(len(data)):
        sample = data[number]
        found[sample["__key__"]] = {name[1:]: part.read() for name, part in sample.items() if name.startswith(".")}
    assert found == members(folder)


HUGGING_FACE = """
import datasets, json
whole = datasets.load_dataset(str(Path().absolute()), split="train")
assert len(datasets.load_dataset(str(Path().absolute()), "extra", split="train")) == 8
raw = whole.cast_column("jpg", datasets.Image(decode=False)).cast_column("png", datasets.Image(decode=False))
print(json.dumps({row["__key__"]: [(row["jpg"] or row["png"])["bytes"].hex(), row["json"]] for row in raw}))
"""


def test_the_code_of_the_card_runs_and_hugging_face_datasets_reads_the_same_offline(folder, tmp_path, root):
    blocks = [block.split("```")[0] for block in front_matter(folder)[1].split("```python\n")[1:]]
    assert len(blocks) == 2
    env = {**os.environ, "PYTHONPATH": str(root), "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    env["RLIP_CACHE"] = str(tmp_path / "cache")
    code = "\n".join([*blocks, HUGGING_FACE])
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=300, env=env
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("toys-00000000000") >= 8
    assert not list(checksum_faults(folder, lambda done, total: None)), "what the code wrote lies elsewhere"
    found = json.loads(done.stdout.splitlines()[-1])
    expected = members(folder)
    assert found.keys() == expected.keys()
    for key, (pixels, labels) in found.items():
        own = expected[key]
        assert bytes.fromhex(pixels) == (own.get("jpg") or own.get("png"))
        stated = json.loads(own["json"])
        assert labels["objects"] == stated["objects"]
        for name in ("relations", "uncertain"):
            assert list(map(_told, labels[name] or ())) == list(map(_told, stated.get(name, ())))
        # The features of the card are those of the labels.
        assert labels.keys() == {*stated, "uncertain"}


def _told(relation: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in relation.items() if value is not None}


def test_energon_gets_the_headers_of_samples(folder):
    """The layout of `.tar.idx`: 64-bit little-endian offsets of the samples' first headers, and the end of the last."""
    for name in TARS:
        index = read_index(folder / name).to_pylist()
        places = np.frombuffer((folder / name.replace(".tar", ".tar.idx")).read_bytes(), "<u8")
        data = (folder / name).read_bytes()
        firsts = {row["key"]: row["extension"] for row in reversed(index)}
        assert len(places) == len(firsts) + 1
        for (key, extension), place in zip(reversed(firsts.items()), places, strict=False):
            assert data[int(place) :].startswith(f"{key}.{extension}\0".encode())
        assert data[int(places[-1]) :].strip(b"\0") == b"" and int(places[-1]) % 512 == 0
    info = json.loads((folder / ".nv-meta/.info.json").read_text())
    assert info["shard_counts"] == dict(zip(TARS, (8, 2, 1, 1), strict=True))
    assert yaml.safe_load((folder / ".nv-meta/split.yaml").read_text())["split_parts"] == {"train": TARS}


def test_the_command_publishes(run, tmp_path):
    store = run.store.root
    made = ("shards", "publish", "toy", tmp_path / "made")
    done = rlip(*made, "--store", store, "--license", "mit", "--index", "wids", "--json")
    assert done.exit_code == 0, done.stderr
    made = Published(**json.loads(done.stdout))
    assert made.tars == 4 and (tmp_path / "made/wids.json").is_file() and not (tmp_path / "made/.nv-meta").exists()
    refused = rlip("shards", "publish", "toy", tmp_path / "made", "--store", store)
    assert refused.exit_code == 1 and "already exists" in refused.stderr
    unknown = rlip("shards", "publish", "toy", tmp_path / "other", "--store", store, "--index", "tfrecord")
    assert unknown.exit_code == 1 and "wids or energon" in unknown.stderr
