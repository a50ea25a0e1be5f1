"""Training from a store elsewhere: samples are read where they lie, and no tar is copied."""

from pathlib import Path
from uuid import uuid4

from pipeline.runtime.execute import WorkItem, execute
from pipeline.runtime.settings import Settings
from pipeline.runtime.stage import Inputs, Output, ReportProgress, Stage
from pipeline.stages.pretrain import PretrainStage
from pipeline.training.settings import TrainingSettings
from storage.artifact import Artifact
from storage.keys import KeyTerms
from storage.local_store import LocalStore
from storage.remote_store import RemoteStore
from storage.store import Store
from storage.tables import SHARD_MEMBERS, read_table
from tests.training.conftest import TINY, sample, write_shard


class Packed(Stage):
    """Stands in for stage `shard`: packs ten made images."""

    name = "shard"
    version = 1
    writes = "shards"
    schema = SHARD_MEMBERS

    def run(self, inputs: Inputs, work: Path, report: ReportProgress) -> Output:
        shard = write_shard(work, [sample(i) for i in range(1, 11)])
        files = {name: work / name for name in ("shard-000.tar", "statistics.parquet")}
        return Output(read_table(shard.index), files)


def ignore(done: int, total: int, note: str = "") -> None:
    pass


def trained(store: Store, **settings) -> Artifact:
    """Packs images, then trains on them."""
    key = execute(Packed(Settings()), WorkItem("shard", "made/0000", KeyTerms("shard", 1, {}, {})), store, ignore).key
    stage = PretrainStage(TrainingSettings(**(TINY | {"steps": 3, "processes": 1} | settings)))
    terms = KeyTerms("pretrain", 1, {}, {})
    item = WorkItem("pretrain", "all", terms, {"shards": (store.folder("shard", key),)})
    found = store.find("pretrain", execute(stage, item, store, ignore).key)
    return found


def test_a_training_on_s3_reads_ranges_and_ends_with_the_same_weights(s3, tmp_path):
    local = trained(LocalStore(tmp_path / "local")).file("model.safetensors").read_bytes()
    for cache_gib in (0.0, 1.0):
        url, away = f"{s3}/{uuid4().hex}", tmp_path / f"training {cache_gib}"
        packing = RemoteStore(url, tmp_path / f"packing {cache_gib}")
        execute(Packed(Settings()), WorkItem("shard", "made/0000", KeyTerms("shard", 1, {}, {})), packing, ignore)
        elsewhere = trained(RemoteStore(url, away), cache_gib=cache_gib)
        assert not list(away.rglob("*.tar"))
        assert elsewhere.file("model.safetensors").read_bytes() == local
