"""Whole training runs in real processes: resumed ones give the bits of undisturbed ones, failures say what to do."""

import dataclasses
import os
import random
import re
import resource
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
from warm_process import WarmProcess, limited, ranks_of

from models import weights
from models.config import NetworkConfig
from pipeline.training import worker
from pipeline.training.checkpoint_folder import CheckpointFolder
from pipeline.training.config import CHECKPOINTS, MODEL, TOKENIZER, VOCABULARY, Summary, TrainConfig
from pipeline.training.launch.launcher import launch, prepare
from pipeline.training.vocabulary import make_tokenizer
from storage.errors import FatalError
from tests.training.conftest import TINY, config_of, ignore, metrics, sample, train_as_a_stage, write_shard
from tests.training.launched import agent, end_of

KILLS = int(os.environ.get("RLIP_KILLS", 1))
STEPS = 12 if KILLS == 1 else 40
LONGEST = 0.7 if KILLS == 1 else 1.5
"""Maximum seconds before a rank is killed. A round of 40 steps takes about two."""


def config(work: Path, shard, **changes) -> TrainConfig:
    made = config_of(work, shard, **{"steps": STEPS, "checkpoint_every": 3} | changes)
    prepare(made)
    return made


def outcome(work: Path) -> tuple[bytes, list[dict]]:
    return (work / MODEL).read_bytes(), metrics(work)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, shard) -> tuple[bytes, list[dict]]:
    work = tmp_path_factory.mktemp("undisturbed")
    launch(config(work, shard), ignore)
    return outcome(work)


def train_alone(path: Path) -> None:
    worker.main(path)
    print(torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory)


@pytest.mark.parametrize(("deterministic", "found"), [("bits", "True False"), ("fast", "False True")])
def test_sums_have_a_fixed_order_unless_they_may_be_fast(work, shard, deterministic, found):
    """With an order, new tensors are not filled, which torch does by default then."""
    made = config(work, shard, steps=1, processes=1, deterministic=deterministic)
    (work / "config.json").write_text(made.model_dump_json())
    said, errors = WarmProcess(train_alone, work / "config.json").communicate(60)
    assert said.endswith(f"finished\n{found}\n"), errors


def test_a_training_asked_to_stop_writes_a_checkpoint_first(work, shard, undisturbed):
    class Cancelled(BaseException):
        pass

    def cancel(done, total, note=""):
        if done < total:
            raise Cancelled

    with pytest.raises(Cancelled):
        launch(config(work, shard, checkpoint_every=1000, num_workers=1), cancel)
    assert not ranks_of(work)
    checkpoints = CheckpointFolder(work / CHECKPOINTS)
    assert checkpoints.record(checkpoints.steps()[0])["about"]["step"] >= 1
    summary = launch(config(work, shard, checkpoint_every=1000), ignore)
    assert summary.resumed_from >= 1
    assert outcome(work) == undisturbed


def test_two_nodes_end_with_the_bits_of_one(work, shard, undisturbed, address):
    with agent(address, work) as other:
        assert launch(config(work, shard, processes=1, nodes=2, address=address), ignore).processes == 2
        assert "the training run finished" in end_of(other)[1]
    assert outcome(work) == undisturbed


def test_ranks_killed_at_random_moments_cost_no_bit(work, shard, undisturbed):
    """RLIP_KILLS sets the number of kills; `make torture` takes many."""
    chance, finished = random.Random(0), threading.Event()

    def strike() -> None:
        for _ in range(KILLS):
            while not (found := ranks_of(work)) and not finished.is_set():
                time.sleep(0.05)
            time.sleep(chance.uniform(0, LONGEST))
            if found := ranks_of(work):
                os.kill(chance.choice(found), signal.SIGKILL)
                killed.append(found)
            while ranks_of(work) == found and not finished.is_set():
                time.sleep(0.05)

    killed: list[list[int]] = []
    thread = threading.Thread(target=strike)
    thread.start()
    notes: list[str] = []
    killable = config(work, shard, checkpoint_every=1, restarts=1000)
    launch(killable, lambda done, total, note="": notes.append(note))
    finished.set()
    thread.join()
    assert killed and any("was killed by SIGKILL" in note for note in notes)
    print(f"{len(killed)} kills")
    assert outcome(work) == undisturbed


def test_one_process_reports_as_it_goes(work, shard):
    reported = []
    summary = launch(
        config(work, shard, processes=1, steps=3), lambda done, total, note="": reported.append((done, total, note))
    )
    assert summary.processes == 1 and summary.steps == 3
    assert reported[-1][:2] == (3, 3)
    assert "loss" in reported[-1][2] and "images/s" in reported[-1][2]


def test_nothing_to_train_on_is_reported_before_any_process_starts(work):
    with pytest.raises(FatalError, match="nothing to train on"):
        prepare(config_of(work))


def test_texts_get_the_tokens_that_pretrained_weights_have_learned(work, shard, root, tmp_path, caplog):
    weights = root / "scenes/weights/detector/model.safetensors"
    prepare(config_of(work, shard, pretrained=weights))
    assert (work / TOKENIZER / "vocab.json").read_bytes() == (weights.parent / "vocab.json").read_bytes()
    assert not caplog.records
    make_tokenizer((), 300, tmp_path / "other")
    (work / VOCABULARY).unlink()
    prepare(config_of(work, shard, pretrained=weights, tokenizer=tmp_path / "other"))
    (note,) = caplog.messages
    assert note == "the tokenizer differs from the one beside the pretrained weights"


def run(work: Path, shard, **changes) -> Summary:
    """Trains with one process and one loader."""
    return train_as_a_stage(
        work, shard, **{"steps": 4, "processes": 1, "num_workers": 1, "checkpoint_every": 2} | changes
    )


def test_a_mix_without_relations_is_reported_before_any_process_starts(work, tmp_path):
    shard = write_shard(tmp_path, [dataclasses.replace(sample(i), relations=()) for i in range(1, 5)])
    with pytest.raises(FatalError, match=r"nothing to learn predicates from: .* loss\.predicates = 0"):
        config(work, shard)
    assert run(work, shard, loss={"predicates": 0.0}).steps == 4


def test_a_full_disk_is_reported_and_the_last_checkpoint_stays(work, shard, caplog):
    run(work, shard, steps=2)
    said = pytest.raises(FatalError, match=r"the trained weights could not be written .*File too large.* from step 2")
    with limited(resource.RLIMIT_FSIZE, 400_000), said:
        run(work, shard)
    assert CheckpointFolder(work / CHECKPOINTS).steps() == [2]
    (notice,) = {record.notice for record in caplog.records if record.name == "rlip"}
    assert re.match(rf"the checkpoint of step 4 could not .*{work}/.*; the last one is of step 2", notice)
    assert run(work, shard).resumed_from == 2


def test_a_training_that_diverges_names_the_step_and_keeps_its_checkpoint(work, shard):
    run(work, shard, steps=2)
    with pytest.raises(FatalError, match=r"diverged at step \d+ .*the newest checkpoint is of step 2; lower lr = "):
        rates = dict.fromkeys(("lr", "lr_backbone", "lr_text"), 1e30)
        run(work, shard, **rates, steps=6, warmup=0, max_grad_norm=1e30, schedule="step")
    assert 2 in CheckpointFolder(work / CHECKPOINTS).steps()


def test_a_first_step_that_fails_blames_what_it_started_from_and_no_rate(work, shard, tmp_path):
    network = weights.build(NetworkConfig.from_dict(TINY["network"]), None)
    with torch.no_grad():
        network.projection_text.weight.mul_(1e38)
    weights.save(network, tmp_path / "huge.safetensors")
    make_tokenizer((), network.config.text.vocabulary, tmp_path)
    with pytest.raises(FatalError, match=r"step 1 failed before it changed any weight .* pretrained = .*huge") as told:
        run(work, shard, pretrained=tmp_path / "huge.safetensors")
    assert "lr" not in str(told.value)


def test_too_little_memory_is_reported_with_what_takes_less(work, shard):
    said = pytest.raises(FatalError, match=r"out of memory on cpu at step 1, with 2 images .*micro_batch = 2")
    with limited(resource.RLIMIT_DATA, 3 * 2**30), said:
        run(work, shard, num_workers=0, image_size=6400)
