"""Tagging, captioning, the filter and evaluation on another device: the CPU's results, a bounded number of waits."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from models.deformable_attention import References
from models.rlip import RLIP
from pipeline.captioning.blip import BlipCaptioner, MatchScorer
from pipeline.captioning.settings import CaptionSettings
from pipeline.evaluation.predictor import Names, Predictor
from tagger.labelling.labeller import TaggerLabeller
from tests.captioning.test_match_scorer import TEXTS
from tests.device.standin import counted, register
from tests.tagger.test_labelling import CATEGORIES, PREDICATES, RIDING, image, scores

register()
CPU = torch.device("cpu")


def test_maps_of_new_sizes_wait_for_nothing(device):
    points = torch.zeros(1, 1, 1, 2, device=device)
    with counted() as traffic:
        References.at_points(points, [(3, 1000)], 1)
    assert traffic.copies.total() == 1 and not traffic.waits


def test_labels_wait_once_for_images_that_are_scored_together(tagger, device):
    images = [image(seed, RIDING) for seed in range(6)]
    labellers = [
        TaggerLabeller(
            copy.deepcopy(tagger).to(where), CATEGORIES, PREDICATES, floor=0.0, images_together=3, pairs_together=4
        )
        for where in (CPU, device)
    ]
    expected = [labels.relations for labels in labellers[0].label(images)]
    labellers[1].label(images[:3])  # makes the constants that stay on the device
    with counted() as traffic:
        found = [labels.relations for labels in labellers[1].label(images)]
    for one, other in zip(found, expected, strict=True):
        assert [replace(r, score=0.0) for r in one] == [replace(r, score=0.0) for r in other]
        torch.testing.assert_close(scores(one), scores(other), atol=1e-5, rtol=0)
    assert traffic.waits.total() == 2, traffic.waits


def opened(kind: type, where: torch.device, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> Any:
    """Opens a model of a worker whose device is `where`."""
    monkeypatch.setattr(f"{kind.__module__}.choose_device", lambda setting, worker: where)
    return kind(CaptionSettings(**settings))


@pytest.mark.parametrize("changes", [{"draws": 5}, {"decoding": "beam"}, {"draws": 2, "top_p": 1.0}], ids=str)
def test_captions_wait_once_a_batch(blip_folder: Path, pictures, device, monkeypatch, changes):
    settings = {"model": str(blip_folder), "batch_size": 4} | changes
    here, there = (opened(BlipCaptioner, where, monkeypatch, **settings) for where in (CPU, device))
    ids = list(range(len(pictures)))
    expected = here.caption(pictures, ids)
    with counted() as traffic:
        found = there.caption(pictures, ids)
    assert [[c.text for c in of] for of in found] == [[c.text for c in of] for of in expected]
    sure, surely = ([c.log_probability for of in captions for c in of] for captions in (found, expected))
    assert sure == pytest.approx(surely, abs=1e-3)
    assert traffic.waits.total() == -(-len(pictures) // 4), traffic.waits


def test_the_filter_scores_the_same(matcher: Path, pictures, device, monkeypatch):
    here, there = (opened(MatchScorer, where, monkeypatch, filter=str(matcher)) for where in (CPU, device))
    with counted() as traffic:
        found = there.scores(pictures[0], TEXTS)
    assert found == pytest.approx(here.scores(pictures[0], TEXTS), abs=1e-5)
    assert traffic.waits.total() == 1, traffic.waits


def test_an_evaluation_finds_the_same(small_config, tokenizer, device):
    network = RLIP(small_config, tokenizer).eval()
    names = Names(("person", "dog", "bicycle"), ("riding", "holding"))
    images = [Image.new("RGB", (120, 80), (40 * number, 90, 200 - 30 * number)) for number in range(5)]
    found = []
    for where in (CPU, device):
        model = Predictor(copy.deepcopy(network).to(where), names, 96, subject="person")
        found.append(list(model.predict(images, 2)))
    for one, other in zip(*found, strict=True):
        assert len(one.predicates) == len(other.predicates)
        assert one.boxes.boxes == pytest.approx(other.boxes.boxes, abs=1e-2)
