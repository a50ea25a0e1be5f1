"""What ranks tell each other, bit by bit, and what happens when a process of someone else answers in place of one."""

import re
import stat
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest
import torch.distributed as dist
from relation_rows import of_image
from warm_process import WarmProcess

from pipeline.evaluation.detection import Detections
from pipeline.evaluation.test_set import ScoredImage
from pipeline.stages.pretrain_worker import _arrays, _scored
from pipeline.training.launch.launcher import launch
from pipeline.training.ranks import Ranks
from storage.errors import RetryableError
from tests.training.launched import Told, config

SECRET = b"the secret of this meeting"


def exchange(rank: int, folder: Path) -> None:
    dist.init_process_group("gloo", store=dist.FileStore(str(folder / "store"), 3), rank=rank, world_size=3)
    ranks = Ranks(rank, 3, secret=SECRET)
    ranks.prove()
    assert ranks.gathered({"é": "long" * rank}) == [{"é": "long" * other} for other in range(3)]
    assert ranks.agreed([rank, True]) == [0, True]
    scores = np.array([[0.1, np.nan]], np.float32)
    found = ranks.every({rank: {"scores": scores + rank, "none": np.zeros((0, 4))}} if rank else {})
    assert sorted(found) == [1, 2]
    for other, arrays in found.items():
        assert arrays["scores"].dtype == np.float32 and arrays["scores"].tobytes() == (scores + other).tobytes()
        assert arrays["none"].shape == (0, 4)
    for connect in (Ranks.prove, lambda ranks: ranks.own_group([[0, 1, 2]], timedelta(seconds=60))):
        with pytest.raises(RetryableError) as refused:
            connect(replace(ranks, secret=b"a guess") if rank == 2 else ranks)
        print(refused.value)


def test_ranks_exchange_json_and_arrays_and_refuse_one_that_does_not_know_the_secret(tmp_path):
    processes = [WarmProcess(exchange, rank, tmp_path) for rank in range(3)]
    for rank, process in enumerate(processes):
        told, errors = process.communicate(60)
        assert process.wait() == 0, errors
        stranger = f"what answers rank {rank} as rank {0 if rank == 2 else 2} is not a process of this training run"
        assert told.count(stranger) == 2


@pytest.mark.parametrize("way", ["reflected", "passed on"])
def test_a_stranger_can_have_no_challenge_answered_by_others(way):
    """It is rank 2, and sends back to ranks 0 and 1 what they send it, or passes it on to the other."""
    sent: dict[int, Sequence[bytes]] = {}
    barrier = Barrier(2)

    class Wired(Ranks):
        def _swapped(self, parts: Sequence[bytes]) -> list[bytes]:
            sent[self.rank] = parts
            barrier.wait()
            source = self.rank if way == "reflected" else 1 - self.rank
            received = [sent[0][self.rank], sent[1][self.rank], sent[source][2]]
            barrier.wait()
            return received

    with ThreadPoolExecutor(2) as threads:
        proofs = [threads.submit(Wired(rank, 3, secret=SECRET).prove) for rank in (0, 1)]
    for proof in proofs:
        with pytest.raises(RetryableError, match="as rank 2 is not a process of this training run"):
            proof.result()


def test_a_training_begins_anew_when_a_stranger_answers_in_place_of_a_rank(work, order_fault):
    order_fault(rank=1, steps=[0], what="stranger")
    told = Told()
    assert launch(config(work, steps=1), told).processes == 2
    (restart,) = told.of("restarting")
    assert re.search(r"what answers rank [01] as rank [01] is not a process of this training run", restart)


def test_only_the_user_reaches_the_meeting_while_it_lasts(work):
    modes = []

    def look() -> None:
        (folder,) = work.glob(".meeting-*")
        modes.extend(stat.S_IMODE(path.stat().st_mode) for path in (folder, folder / "secret"))

    launch(config(work, steps=2), Told(look))
    assert modes == [0o700, 0o600]


def test_scores_reach_the_other_processes_bit_by_bit():
    draw = np.random.default_rng(0)

    def image(position: int, pairs: int) -> ScoredImage:
        boxes = draw.random((3, pairs, 4)).astype(np.float32)
        labels = draw.integers(0, 9, (4, pairs))
        relations = of_image(boxes[0], boxes[1], *labels[:3], draw.random(pairs))
        return ScoredImage(position, relations, Detections(boxes[2], labels[3], draw.random(pairs).astype(np.float32)))

    images = [image(7, 5), image(2, 0)]
    every = Ranks().every({each.position: _arrays(each) for each in images})
    for told, own in zip([_scored(position, every[position]) for position in (7, 2)], images, strict=True):
        assert told.position == own.position
        for part in ("relations", "boxes"):
            found, stated = vars(getattr(told, part)), vars(getattr(own, part))
            assert found.keys() == stated.keys()
            for name, value in stated.items():
                same = not isinstance(value, np.ndarray) or found[name].dtype == value.dtype
                assert same and np.array_equal(found[name], value)
