"""Images behind initial weights: found by the content of the file, through a chain of training runs, or told to be unknown."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.runtime.stage import Inputs
from pipeline.stages.overlap import OverlapSettings, OverlapStage, TrainedImages
from storage.artifact import Artifact
from storage.digests import digest_bytes, digest_file, digest_json
from storage.errors import FatalError
from storage.local_store import LocalStore
from storage.manifest import Counts, FileEntry, Manifest
from storage.tables import FINGERPRINTS, SHARD_MEMBERS, write_table


def commit(store: LocalStore, stage: str, name: str, file: str, upstream=(), initial=None, data=b"") -> Artifact:
    """An artifact with one file, which was made from shards and initial weights."""
    weights = {} if initial is None else {"initial": initial}
    terms = {"stage": stage, "version": 1, "settings": {"name": name}, "inputs": {}, "weights": weights}
    with store.draft() as draft:
        (draft / file).write_bytes(data)
        manifest = Manifest(
            stage=stage, key=digest_json(terms), terms=terms, upstream={"shards": list(upstream)},
            files={file: FileEntry(digest=digest_bytes(data), size=len(data))}, schema_fingerprint="", counts=Counts(),
            seconds=0.0, host="", versions={},
        )  # fmt: skip
        return store.commit(draft, manifest)


def shard(store: LocalStore, folder: Path, name: str, *images: tuple[int, str, int]) -> str:
    rows = [
        {"dataset": name, "image_id": i, "extension": "jpg", "digest": digest, "phash": phash}
        for i, digest, phash in images
    ]
    write_table(pa.Table.from_pylist(rows, schema=SHARD_MEMBERS), folder / name)
    return commit(store, "shard", name, "shards.parquet", data=(folder / name).read_bytes()).key


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    """A training run on vg and coco, and a fine-tuning of its weights on hico; copies of all weights lie in the folder."""
    store = LocalStore(tmp_path / "store")
    vg = shard(store, tmp_path, "vg", (1, "a", 0x0F0F), (2, "b", 0xF0F0_F0F0_0000_0000))
    coco = shard(store, tmp_path, "coco", (1, "c", 0x1234_5678_9ABC_DEF0))
    hico = shard(store, tmp_path, "hico", (1, "d", 0x00FF_00FF_00FF_00FF))
    first = commit(store, "pretrain", "first", "model.safetensors", (vg, coco), data=b"first")
    foreign = commit(store, "pretrain", "foreign", "model.safetensors", (vg,), initial="0" * 64, data=b"foreign")
    assert first.key != foreign.key
    digest = digest_file(first.file("model.safetensors"))
    commit(store, "pretrain", "second", "model.safetensors", (hico,), initial=digest, data=b"second")
    for name in ("first", "second", "foreign", "elsewhere"):
        (tmp_path / f"{name}.safetensors").write_bytes(name.encode())
    return store


def known(folder: Path, name: str, address: str) -> tuple[list[str], str]:
    found = TrainedImages.of(folder / f"{name}.safetensors", address)
    return [Artifact(path.parent).table("shards")["dataset"][0].as_py() for path in found.shards], found.unknown


def test_a_copy_of_weights_is_known_by_its_content(store: LocalStore, tmp_path: Path) -> None:
    assert known(tmp_path, "first", store.address) == (["vg", "coco"], "")
    assert known(tmp_path, "second", store.address) == (["hico", "vg", "coco"], "")


def test_weights_in_another_store_are_known_there(store: LocalStore, tmp_path: Path) -> None:
    (made,) = (a for a in store.artifacts("pretrain") if a.file("model.safetensors").read_bytes() == b"first")
    found = TrainedImages.of(made.file("model.safetensors"), str(tmp_path / "new store"))
    assert len(found.shards) == 2 and not found.unknown


def test_what_no_store_knows_is_said(store: LocalStore, tmp_path: Path) -> None:
    shards, why = known(tmp_path, "elsewhere", store.address)
    assert shards == [] and why.endswith("elsewhere.safetensors is of no training run in the store")
    shards, why = known(tmp_path, "foreign", store.address)
    assert shards == ["vg"] and "began with weights that are of no training" in why
    (store.root / "artifacts/shard" / shard_key(store, "coco") / "manifest.json").unlink()
    assert "is gone from the store" in known(tmp_path, "first", store.address)[1]


def shard_key(store: LocalStore, name: str) -> str:
    return next(a.key for a in store.artifacts("shard") if a.table("shards")["dataset"][0].as_py() == name)


def test_an_evaluation_image_behind_the_initial_weights_is_refused(store: LocalStore, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    own = pa.Table.from_pylist([{"dataset": "coco", "image_id": 7, "extension": "jpg", "digest": "x"}], SHARD_MEMBERS)
    write_table(own, tmp_path / "own" / "shards.parquet")
    tests = [{"dataset": "vcoco", "image_id": 1, "digest": "c"}, {"dataset": "vcoco", "image_id": 2, "digest": "z"}]
    tests[1]["phash"] = 0x0F0F ^ 1
    (tmp_path / "tests").mkdir()
    write_table(pa.Table.from_pylist(tests, FINGERPRINTS), tmp_path / "tests" / "fingerprints.parquet")
    given = Inputs({"shards": (Artifact(tmp_path / "own"),), "fingerprints": (Artifact(tmp_path / "tests"),)})

    def stage(name: str | None) -> OverlapStage:
        initial = None if name is None else tmp_path / f"{name}.safetensors"
        return OverlapStage(OverlapSettings(pretrained=initial, store=store.address))

    assert stage(None).weights() == {} and stage(None).row_settings() == {"distance": 4}
    output = stage("second").run(given, tmp_path, lambda done, total, note="": None)
    rows = [(row["dataset"], row["image_id"], row["test_image_id"], row["how"]) for row in output.table.to_pylist()]
    assert sorted(rows) == [
        ("initial weights: coco", 1, 1, "same bytes"), ("initial weights: vg", 1, 2, "near-duplicate"),
    ]  # fmt: skip
    assert output.facts["images behind the initial weights"] == 4 and "not compared" not in output.facts
    (tmp_path / "made").mkdir()
    write_table(output.table, tmp_path / "made" / "overlap.parquet")
    with pytest.raises(
        FatalError, match=r"1 of initial weights: coco in vcoco.*pretrain\.settings\.pretrained have seen"
    ):
        stage("second").audit(Inputs({"overlap": (Artifact(tmp_path / "made"),)}))
    unknown = stage("elsewhere").run(given, tmp_path, lambda done, total, note="": None)
    assert "of no training run in the store" in unknown.facts["not compared"]
    assert json.dumps(unknown.facts)
