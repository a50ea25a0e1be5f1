"""Losses of a batch that is split over processes: their mean is the loss of the whole batch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import multiprocessing

from models.losses import SetCriterion
from models.predictions import Predictions
from models.target import Target

PAIRS_OF_IMAGES = (3, 1)


def image(number: int) -> tuple[list[torch.Tensor], Target]:
    """Returns an image's predictions (batch size 1) and its target."""
    torch.manual_seed(number)
    pairs = PAIRS_OF_IMAGES[number]
    predicted = [torch.randn(1, 4, 5), torch.randn(1, 4, 5), torch.randn(1, 4, 3)]
    predicted += [torch.rand(1, 4, 4) * 0.4 + 0.2, torch.rand(1, 4, 4) * 0.4 + 0.2]
    boxes = torch.rand(2, pairs, 4) * 0.4 + 0.2
    labels, predicates = torch.randint(4, (2, pairs)), (torch.rand(pairs, 3) > 0.3).float()
    return predicted, Target(*labels, *boxes, predicates, torch.ones(pairs, dtype=torch.bool))


def losses(numbers: list[int], official: bool) -> dict[str, float]:
    predicted, targets = zip(*map(image, numbers), strict=True)
    joined = Predictions(*(torch.cat(parts) for parts in zip(*predicted, strict=True)))
    terms = SetCriterion(official_compat=official)(joined, list(targets))
    return {name: value.item() for name, value in terms.items()}


def one_process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    found = {str(official): losses([rank], official) for official in (False, True)}
    Path(folder, f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def of_ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    multiprocessing.spawn(one_process, (str(folder),), nprocs=2)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


def test_the_mean_over_processes_is_the_loss_of_the_whole_batch(of_ranks):
    for name, whole in losses([0, 1], official=False).items():
        mean = sum(rank["False"][name] for rank in of_ranks) / 2
        assert mean == pytest.approx(whole, rel=1e-5), name


def test_the_authors_share_only_the_number_of_pairs(of_ranks):
    whole = losses([0, 1], official=True)
    means = {name: sum(rank["True"][name] for rank in of_ranks) / 2 for name in whole}
    for name in ("loss_subject_box", "loss_subject_giou"):
        assert means[name] == pytest.approx(whole[name], rel=1e-4), name
    for name in ("loss_class", "loss_predicates", "loss_object_box", "loss_object_giou"):
        assert means[name] != pytest.approx(whole[name], rel=1e-3), name
