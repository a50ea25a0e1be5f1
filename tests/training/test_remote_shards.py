"""Training from a store elsewhere: samples are read where they lie, and no tar is copied."""

from uuid import uuid4

from run_builder import Made

from pipeline.runtime.execute import WorkItem, execute
from pipeline.stages.pretrain import PretrainStage
from pipeline.training.settings import TrainingSettings
from storage.artifact import Artifact
from storage.keys import KeyTerms
from storage.local_store import LocalStore
from storage.remote_store import RemoteStore
from storage.store import Store
from tests.training.conftest import TINY, ignore, packed


def pack(store: Store) -> str:
    item = WorkItem("shard", "made/0000", KeyTerms("shard", 1, {}, {}))
    return execute(Made("shard", packed), item, store, ignore).key


def trained(store: Store, **settings) -> Artifact:
    """Packs images, then trains on them."""
    key = pack(store)
    values = TINY | {"steps": 3, "processes": 1, "tracking": store.root / "tracking"} | settings
    stage = PretrainStage(TrainingSettings(**values))
    terms = KeyTerms("pretrain", 1, {}, {})
    item = WorkItem("pretrain", "all", terms, {"shards": (store.folder("shard", key),)})
    return store.find("pretrain", execute(stage, item, store, ignore).key)


def test_a_training_on_s3_reads_ranges_and_ends_with_the_same_weights(s3, tmp_path):
    local = trained(LocalStore(tmp_path / "local")).file("model.safetensors").read_bytes()
    for cache_gib in (0.0, 1.0):
        url, away = f"{s3}/{uuid4().hex}", tmp_path / f"training {cache_gib}"
        packing = RemoteStore(url, tmp_path / f"packing {cache_gib}")
        pack(packing)
        elsewhere = trained(RemoteStore(url, away), cache_gib=cache_gib)
        assert not list(away.rglob("*.tar"))
        assert elsewhere.file("model.safetensors").read_bytes() == local
