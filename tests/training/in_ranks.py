"""Runs a function in several processes that form a group, as a training does, without the cost of a launch for each."""

from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch import multiprocessing
from torch.distributed import distributed_c10d

from pipeline.runtime.processes import fork_context
from pipeline.training.config import HELD_OUT, SAMPLES, TOKENIZER, VOCABULARY, Shard
from pipeline.training.launch.launcher import prepare
from pipeline.training.ranks import Ranks
from pipeline.training.shards import ShardSamples
from pipeline.training.tagger_evaluation import HeldOut
from pipeline.training.task import PretrainTask, TaggerTask
from pipeline.training.trainer import Trainer, TrainingResult
from pipeline.training.vocabulary import Vocabulary
from pipeline.training.worker import be_deterministic
from storage.shards.sample_map import SampleMap
from tests.training.conftest import config_of


def in_ranks(count: int, folder: Path, function: Callable[..., None], *given: object) -> None:
    """Calls `function(ranks, *given)` in so many new processes."""
    fork_context()
    given_each = (count, str(folder / f"store-{count}"), function, given)
    multiprocessing.start_processes(_one, given_each, nprocs=count, start_method="forkserver")


def _one(rank: int, count: int, store: str, function: Callable[..., None], given: tuple[object, ...]) -> None:
    torch.set_num_threads(1)
    distributed_c10d._unpickler = None  # so that no object goes from rank to rank, for our code or for torch's
    be_deterministic(torch.device("cpu"))
    if count == 1:
        function(Ranks(), *given)
        return
    dist.init_process_group("gloo", store=dist.FileStore(store, count), rank=rank, world_size=count)
    function(Ranks(rank, count), *given)
    dist.destroy_process_group()


def train(
    ranks: Ranks,
    shard: Shard,
    work: Path,
    values: dict,
    stop_after: int | None = None,
    each_step: Callable[[], object] = lambda: None,
) -> TrainingResult:
    """Trains in this process group; `stop_after`: asks to stop after so many steps. With `held_out`, trains a tagger.

    `each_step` is called at the same place of each step.
    """
    config, is_tagger = config_of(work, shard, **values), "held_out" in values
    settings = config.settings
    if ranks.rank == 0:
        work.mkdir(exist_ok=True)
        prepare(config)
    if ranks.count > 1:
        dist.barrier()
    vocabulary, check = Vocabulary.load(work / VOCABULARY), None
    task = (TaggerTask if is_tagger else PretrainTask)(settings, vocabulary, work / TOKENIZER)
    if is_tagger:
        check = HeldOut(ShardSamples(SampleMap(work / HELD_OUT)), vocabulary, settings, work)
    notes: list[str] = []
    samples = ShardSamples(SampleMap(work / SAMPLES))
    trainer = Trainer(config, task, samples, ranks, lambda step, total, note: notes.append(note), check)

    def asked_to_stop() -> bool:
        each_step()
        return stop_after is not None and trainer.step + 1 >= stop_after

    result = trainer.train(asked_to_stop)
    if ranks.rank == 0:
        (work / "notes.txt").write_text("\n".join(notes))
        if result.finished:
            torch.save({name: value.clone() for name, value in result.state.items()}, work / "state.pt")
    return result
