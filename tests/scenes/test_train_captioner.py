"""Training the captioner resumes from its checkpoint with the same losses, and exports the trained model."""

from __future__ import annotations

import pytest
import torch
from transformers import BlipForConditionalGeneration

from scenes.captioner_model import Learner, export
from scenes.train_captioner import PARTS, Feed, ImageCache, load_checkpoint, save_checkpoint


def steps(learner: Learner, optimizer: torch.optim.Optimizer, feed: Feed, first: int, last: int) -> list[float]:
    losses = []
    for step in range(first, last):
        loss = learner(feed.batch(step))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.fixture(scope="module")
def feed(tmp_path_factory: pytest.TempPathFactory) -> Feed:
    cache = ImageCache.open(tmp_path_factory.mktemp("images"), 50, 16, processes=1)
    return Feed(cache, seed=50, batch=4, captions=2)


def fresh(feed: Feed) -> tuple[Learner, torch.optim.Optimizer]:
    torch.manual_seed(0)
    learner = Learner(len(PARTS), len(feed.triplets))
    return learner, torch.optim.AdamW(learner.groups(decay=0.05), lr=1e-3)


def test_goes_on_as_if_never_stopped(feed, tmp_path):
    learner, optimizer = fresh(feed)
    whole = steps(learner, optimizer, feed, 0, 6)
    learner, optimizer = fresh(feed)
    first = steps(learner, optimizer, feed, 0, 3)
    save_checkpoint(tmp_path / "c.pt", learner, optimizer, 3, 12.5)
    learner, optimizer = fresh(feed)
    with torch.no_grad():
        for parameter in learner.parameters():
            parameter.zero_()
    step, seconds = load_checkpoint(tmp_path / "c.pt", learner, optimizer)
    assert (step, seconds) == (3, 12.5)
    assert first + steps(learner, optimizer, feed, step, 6) == whole
    assert whole[-1] < whole[0]


def test_captions_in_a_row_do_not_see_each_other(feed):
    batch = feed.batch(0)
    sees = batch["mask"][:, 0] == 0
    places = batch["places"]
    for row in range(places.shape[0]):
        for token in range(places.shape[1]):
            if batch["targets"][row, token] >= 0:
                seen = places[row][sees[row, token]].tolist()
                assert seen == list(range(int(places[row, token]) + 1))


def test_exported_model_is_the_trained_one(feed, tmp_path):
    learner, _ = fresh(feed)
    export(learner.captioner, tmp_path)
    loaded = BlipForConditionalGeneration.from_pretrained(tmp_path, local_files_only=True)
    assert loaded.dtype == torch.float32
    names = dict(loaded.named_parameters())
    for name, parameter in learner.captioner.named_parameters():
        assert torch.allclose(names[name], parameter, atol=2e-3), name
    assert sum(p.numel() for p in loaded.parameters()) <= 2_400_000
