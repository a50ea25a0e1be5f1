"""Real processes on one node that meet, fail and restart."""

import os
import signal

import pytest
import torch
from warm_process import ranks_of

from pipeline.training.launch import failure, launcher
from pipeline.training.launch.failure import Failure, oom_kills
from pipeline.training.launch.launcher import launch
from storage.errors import FatalError, RetryableError
from tests.training.launched import Told, config, listening, starts


def test_ranks_of_one_node_listen_on_loopback_only_and_their_store_nowhere(work):
    before, found = listening(os.getpid()), []

    def look() -> None:
        found.extend(listening(rank) for rank in ranks_of(work))
        assert listening(os.getpid()) == before

    assert launch(config(work, steps=20), Told(look)).processes == 2
    assert len(found) == 2 and all(found)
    assert {address.rpartition(":")[0] for each in found for address in each} == {"127.0.0.1"}
    assert not list(work.glob(".meeting*"))


def test_a_killed_rank_is_restarted_and_reported_as_the_cause(work, order_fault):
    order_fault(rank=1, steps=[4], what="kill")
    told = Told()
    summary = launch(config(work, checkpoint_every=2), told)
    assert summary.resumed_from == 2 and summary.images_seen == 8 * 4
    assert told.of("restarting") == ["restarting from the last checkpoint, because rank 1 was killed by SIGKILL"]
    assert told.of("restarting")[0] in (work / "train.log").read_text()


def test_no_warning_is_hidden_by_what_is_reported_next(work, order_fault, caplog):
    order_fault(rank=0, steps=[2, 3, 4, 8], what="warn")
    told = Told()
    launch(config(work), told)
    assert [record.notice for record in caplog.records] == ["step 2", "step 3", "step 4", "step 8"]
    assert told.of("warning") == [f"warning: step {step}" for step in (2, 3, 4, 8)]


def test_memory_is_named_as_the_cause_only_where_the_kernel_counts_a_kill(tmp_path, monkeypatch):
    counts = tmp_path / "memory.events"
    monkeypatch.setattr(failure, "OOM_KILLS", (tmp_path / "none", counts))
    assert oom_kills() is None
    counts.write_text("oom 3\noom_kill 2\noom_group_kill 0\n")
    assert oom_kills() == 2
    killed, lost = -signal.SIGKILL, -signal.SIGTERM
    cases = [(killed, True), (killed, False), (lost, True)]
    hints = ["(out of memory)" in Failure.from_exit(0, "", code, None, found).message for code, found in cases]
    assert hints == [True, False, False]


def test_the_error_of_a_rank_is_reported_and_not_what_its_peers_say(work, order_fault):
    order_fault(rank=2, steps=[2], what="error", late=True)
    told = Told()
    launch(config(work, processes=3), told)
    (restart,) = told.of("restarting")
    assert restart.endswith("because rank 2 ended with exit code 1: TypeError: the roof is on fire")


def test_restarts_without_a_new_checkpoint_come_to_an_end(work, order_fault):
    order_fault(rank=0, steps=[3], what="retry", always=True)
    with pytest.raises(RetryableError, match=r"rank 0 ended with exit code 1: the roof is on fire") as raised:
        launch(config(work, restarts=1), Told())
    assert "error: the roof is on fire" in str(raised.value)
    assert sorted(starts(work)) == ["0/2", "0/2", "1/2", "1/2"]
    assert not ranks_of(work)


def test_a_new_checkpoint_resets_the_count_of_restarts(work, order_fault):
    order_fault(rank=1, steps=[2, 3, 4], what="kill")
    assert launch(config(work, restarts=1, checkpoint_every=1), Told()).resumed_from == 3


def test_a_fatal_error_is_reported_once_and_not_retried(work, order_fault):
    order_fault(rank=1, steps=[2], what="fatal", always=True)
    told = Told()
    with pytest.raises(FatalError) as raised:
        launch(config(work), told)
    assert str(raised.value) == "the roof is on fire"
    assert len(starts(work)) == 2 and not told.of("restarting")


def test_a_hung_rank_ends_the_round_after_the_timeout(work, order_fault, monkeypatch):
    monkeypatch.setattr(launcher, "CAUSE_SECONDS", 0.2)  # Only the hung rank knows the cause, and never tells it.
    order_fault(rank=1, steps=[2], what="hang")
    told = Told()
    launch(config(work, collective_timeout=3.0), told)
    (restart,) = told.of("restarting")
    assert "rank 0 ended with exit code 1" in restart and "imed out" in restart


def test_ranks_that_do_not_stop_in_time_are_killed(work, order_fault):
    def interrupt() -> None:
        raise KeyboardInterrupt

    order_fault(rank=1, steps=[2], what="hang")
    with pytest.raises(KeyboardInterrupt):
        launch(config(work, stop_timeout=0.5), Told(interrupt))
    assert not ranks_of(work)
    assert "it took longer, so the training run resumes from the previous" in (work / "train.log").read_text()


def test_a_rank_that_lacks_the_gpus_of_the_launcher_does_not_train_on_a_cpu(work, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(FatalError, match=r"device = 'cuda': .* finds no such GPU"):
        launch(config(work), Told())


def test_too_few_gpus_are_reported_before_any_process_starts(work, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(FatalError, match="processes = 2, but this machine has 1 GPU: set"):
        launch(config(work), Told())
    assert not (work / "starts.txt").exists()
