"""Stage `overlap`: which images that were trained on, here or by the pretrained weights, are test images too."""

import json
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
from run_builder import artifact
from toy_store import commit

from pipeline.runtime.stage import Inputs
from pipeline.stages.overlap import OverlapSettings, OverlapStage, TrainedImages
from storage.artifact import Artifact
from storage.digests import digest_file
from storage.errors import FatalError
from storage.keys import KeyTerms
from storage.local_store import LocalStore
from storage.tables import OVERLAP, write_table

CAT, DOG, SKY = 0xF0F0_F0F0_F0F0_F0F0, 0x1234_5678_9ABC_DEF0, None


def shard(folder: Path, dataset: str, *images) -> Artifact:
    """A shard with an image of (id, digest, hash) and its labels for each of `images`."""
    rows = []
    for image_id, digest, phash in images:
        row = {"dataset": dataset, "image_id": image_id}
        rows.append({**row, "extension": "jpg", "digest": digest, "phash": phash})
        rows.append({**row, "extension": "json", "digest": "labels", "phash": None})
    return artifact(folder, shards=rows)


def fingerprints(folder: Path, dataset: str, *images) -> Artifact:
    rows = [{"dataset": dataset, "image_id": i, "digest": d, "phash": h} for i, d, h in images]
    return artifact(folder, fingerprints=rows)


@pytest.fixture
def inputs(tmp_path: Path) -> Inputs:
    """Shards of coco and vg, some of whose images are in the test sets vcoco, hico and coco."""
    coco = shard(tmp_path / "coco", "coco", (1, "a", CAT), (2, "b", DOG), (3, "c", SKY), (4, "d", CAT ^ (0b111 << 30)))
    vg = shard(tmp_path / "vg", "vg", (1, "e", CAT ^ (1 << 63)), (9, "f", CAT ^ 0xFF), (10, "g", SKY))
    vcoco = fingerprints(tmp_path / "vcoco", "vcoco", (3, "g", SKY), (70, "a", CAT), (71, "labels", 0))
    hico = fingerprints(tmp_path / "hico", "hico", (80, "a", 1))
    own = fingerprints(tmp_path / "own", "coco", (2, "h", 2))
    return Inputs({"shards": (coco, vg), "fingerprints": (vcoco, hico, own)})


def overlap(inputs: Inputs, work: Path, **settings):
    output = OverlapStage(OverlapSettings(**settings)).run(inputs, work, lambda done, total, note="": None)
    return output, [tuple(row.values()) for row in output.table.to_pylist()]


def test_every_pair_is_listed_once_by_its_surest_match(inputs, tmp_path):
    output, rows = overlap(inputs, tmp_path)
    assert rows == [
        ("coco", 1, "vcoco", 70, "same bytes", None), ("coco", 1, "hico", 80, "same bytes", None),
        ("coco", 2, "coco", 2, "same image id", None), ("coco", 4, "vcoco", 70, "near-duplicate", 3),
        ("vg", 1, "vcoco", 70, "near-duplicate", 1), ("vg", 10, "vcoco", 3, "same bytes", None),
    ]  # fmt: skip
    assert output.table.schema == OVERLAP
    assert output.facts == {
        "images": 7, "test images": 5, "same bytes": 3, "same image id": 1, "near-duplicate": 2,
    }  # fmt: skip


def test_only_one_whole_index_is_in_memory(inputs, tmp_path, monkeypatch):
    read, tables, at_once = Artifact.table, list[weakref.ref](), list[int]()

    def counting(self, name):
        tables.append(weakref.ref(found := read(self, name)))
        at_once.append(sum(each() is not None for each in tables))
        return found

    monkeypatch.setattr(Artifact, "table", counting)
    monkeypatch.setattr("pipeline.stages.overlap._overlaps", lambda *_: ())
    overlap(replace(inputs, by_table=inputs.by_table | {"shards": inputs.by_table["shards"] * 5}), tmp_path)
    assert max(at_once[:10]) <= 2


def test_the_distance_decides_what_is_near(inputs, tmp_path):
    def near(distance):
        return [row[:2] for row in overlap(inputs, tmp_path, distance=distance)[1] if row[4] == "near-duplicate"]

    assert near(0) == []
    assert near(2) == [("vg", 1)]
    assert near(8) == [("coco", 4), ("vg", 1), ("vg", 9)]


def test_a_run_that_trains_on_test_images_is_refused_unless_allowed(inputs, tmp_path):
    output, _ = overlap(inputs, tmp_path)
    write_table(output.table, tmp_path / "overlap.parquet")
    made = Inputs({"overlap": (Artifact(tmp_path),)})
    with pytest.raises(FatalError) as caught:
        OverlapStage(OverlapSettings()).audit(made)
    message = str(caught.value)
    assert "1 of coco in coco, 1 of coco in hico, 2 of coco in vcoco, 2 of vg in vcoco" in message
    assert "coco/1 = vcoco/70 (same bytes), coco/1 = hico/80 (same bytes), coco/2 = coco/2 (same image id)" in message
    assert "coco/4" not in message
    assert "`near_duplicates`" in message and "pretrain.allow_overlap = true" in message
    OverlapStage(OverlapSettings(allow=True)).audit(made)


def test_clean_shards_pass_and_allowing_an_overlap_recomputes_nothing(tmp_path):
    clean = shard(tmp_path / "clean", "coco", (1, "a", CAT), (2, "b", SKY))
    tests = fingerprints(tmp_path / "vcoco", "vcoco", (1, "c", DOG), (2, "d", SKY))
    output, rows = overlap(Inputs({"shards": (clean,), "fingerprints": (tests,)}), tmp_path)
    assert rows == []
    write_table(output.table, tmp_path / "overlap.parquet")
    OverlapStage(OverlapSettings()).audit(Inputs({"overlap": (Artifact(tmp_path),)}))
    strict, lenient = (OverlapStage(OverlapSettings(allow=allow)) for allow in (False, True))
    assert strict.row_settings() == lenient.row_settings() == {"distance": 4}


def made(store: LocalStore, stage: str, name: str, file: str, upstream=(), initial=None, data=b"") -> Artifact:
    """An artifact with one file, which was made from shards and pretrained weights."""
    terms = KeyTerms(stage, 1, {"name": name}, {}, {} if initial is None else {"initial": initial})
    return commit(store, terms, file, data, {"shards": list(upstream)})


def shard_of(store: LocalStore, folder: Path, name: str, *images: tuple[int, str, int]) -> str:
    data = (shard(folder / name, name, *images).folder / "shards.parquet").read_bytes()
    return made(store, "shard", name, "shards.parquet", data=data).key


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    """A training run on vg and coco, and a fine-tuning of its weights on hico; the folder has copies of all weights."""
    store = LocalStore(tmp_path / "store")
    vg = shard_of(store, tmp_path, "vg", (1, "a", 0x0F0F), (2, "b", 0xF0F0_F0F0_0000_0000))
    coco = shard_of(store, tmp_path, "coco", (1, "c", 0x1234_5678_9ABC_DEF0))
    hico = shard_of(store, tmp_path, "hico", (1, "d", 0x00FF_00FF_00FF_00FF))
    first = made(store, "pretrain", "first", "model.safetensors", (vg, coco), data=b"first")
    foreign = made(store, "pretrain", "foreign", "model.safetensors", (vg,), initial="0" * 64, data=b"foreign")
    assert first.key != foreign.key
    digest = digest_file(first.file("model.safetensors"))
    made(store, "pretrain", "second", "model.safetensors", (hico,), initial=digest, data=b"second")
    for name in ("first", "second", "foreign", "elsewhere"):
        (tmp_path / f"{name}.safetensors").write_bytes(name.encode())
    return store


def known(folder: Path, name: str, address: str) -> tuple[list[str], str]:
    found = TrainedImages.of(folder / f"{name}.safetensors", address)
    return [Artifact(path.parent).table("shards")["dataset"][0].as_py() for path in found.shards], found.unknown


def test_a_copy_of_weights_is_known_by_its_content(store, tmp_path):
    assert known(tmp_path, "first", store.address) == (["vg", "coco"], "")
    assert known(tmp_path, "second", store.address) == (["hico", "vg", "coco"], "")


def test_weights_in_another_store_are_known_there(store, tmp_path):
    (made,) = (a for a in store.artifacts("pretrain") if a.file("model.safetensors").read_bytes() == b"first")
    found = TrainedImages.of(made.file("model.safetensors"), str(tmp_path / "new store"))
    assert len(found.shards) == 2 and not found.unknown


def test_what_no_store_knows_is_reported(store, tmp_path):
    shards, why = known(tmp_path, "elsewhere", store.address)
    assert shards == [] and why.endswith("elsewhere.safetensors is of no training run in the store")
    shards, why = known(tmp_path, "foreign", store.address)
    assert shards == ["vg"] and "began with weights that are of no training" in why
    (store.root / "artifacts/shard" / shard_key(store, "coco") / "manifest.json").unlink()
    assert "is missing from the store" in known(tmp_path, "first", store.address)[1]


def shard_key(store: LocalStore, name: str) -> str:
    return next(a.key for a in store.artifacts("shard") if a.table("shards")["dataset"][0].as_py() == name)


def test_a_test_image_behind_the_pretrained_weights_is_refused(store, tmp_path):
    own = artifact(tmp_path / "own", shards=[{"dataset": "coco", "image_id": 7, "extension": "jpg", "digest": "x"}])
    tests = [{"dataset": "vcoco", "image_id": 1, "digest": "c"}, {"dataset": "vcoco", "image_id": 2, "digest": "z"}]
    tests[1]["phash"] = 0x0F0F ^ 1
    given = Inputs({"shards": (own,), "fingerprints": (artifact(tmp_path / "tests", fingerprints=tests),)})

    def stage(name: str | None) -> OverlapStage:
        pretrained = None if name is None else tmp_path / f"{name}.safetensors"
        return OverlapStage(OverlapSettings(pretrained=pretrained, store=store.address))

    assert stage(None).files() == {} and stage(None).row_settings() == {"distance": 4}
    output = stage("second").run(given, tmp_path, lambda done, total, note="": None)
    rows = [(row["dataset"], row["image_id"], row["test_image_id"], row["how"]) for row in output.table.to_pylist()]
    assert sorted(rows) == [
        ("initial weights: coco", 1, 1, "same bytes"), ("initial weights: vg", 1, 2, "near-duplicate"),
    ]  # fmt: skip
    assert output.facts["images behind the pretrained weights"] == 4 and "not compared" not in output.facts
    made = artifact(tmp_path / "made", overlap=output.table.to_pylist())
    with pytest.raises(FatalError, match=r"1 of initial weights: coco in vcoco.*pretrained have seen"):
        stage("second").audit(Inputs({"overlap": (made,)}))
    unknown = stage("elsewhere").run(given, tmp_path, lambda done, total, note="": None)
    assert "of no training run in the store" in unknown.facts["not compared"]
    assert json.dumps(unknown.facts)
