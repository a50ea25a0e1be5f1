"""The CLIP labeller with a tiny random model, and labels made without looking at the image."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

from tagger.box import Box
from tagger.labelling.blind_labeller import BlindLabeller
from tagger.labelling.clip_labeller import ClipLabeller
from tagger.labelling.tagging_image import Labels, Problem, TaggingImage
from tagger.pair import Pair

PAIRS = [
    Pair(0, 1, "ride", 4, 2, mention=0, prior=0.7), Pair(1, 0, "ride", 4, 2, mention=0, prior=0.3),
    Pair(0, 1, "next to", 5, 1, mention=1, prior=0.4), Pair(0, 1, "ride", 6, 1, mention=2, prior=0.9),
]  # fmt: skip


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("clip")
    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: place for place, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer"}))
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**sizes, "vocab_size": len(tokens), "max_position_embeddings": 40, "bos_token_id": 52, "eos_token_id": 53}
    vision = {**sizes, "image_size": 16, "patch_size": 8}
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    size = {"height": 16, "width": 16}
    CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=size).save_pretrained(folder)
    return folder


def image(seed: int, load: Problem | None = None) -> TaggingImage:
    pixels = torch.rand(3, 40, 60, generator=torch.Generator().manual_seed(seed))
    boxes = [Box("man", 2, 2, 50, 30), Box("horse", 60, 20, 59.6, 40)]
    return TaggingImage(120, 80, boxes, PAIRS, (40, 60), lambda: load or pixels)


def test_each_candidate_is_scored_against_its_absence(clip):
    first, other = ClipLabeller(clip, 0.0).label([image(0), image(1)])
    assert [(r.subject, r.predicate, r.object, r.triplet) for r in first.relations] == [
        (0, "ride", 1, 4), (1, "ride", 0, 4), (0, "next to", 1, 5),
    ]  # fmt: skip
    scores = [[relation.score for relation in labels.relations] for labels in (first, other)]
    assert all(0 < score < 1 for of_image in scores for score in of_image)
    assert len(set(scores[0])) == 3 and scores[0] != scores[1]
    # "ride" of (0, 1) is also stated without an alternative.
    assert [r.posterior for r in first.relations] == [pytest.approx(0.9), pytest.approx(0.3, abs=0.29), 0.4]


def test_weights_that_a_folder_lacks_are_not_made_up(clip, tmp_path):
    folder = Path(shutil.copytree(clip, tmp_path / "text"))
    text = {n: weight for n, weight in load_file(clip / "model.safetensors").items() if n.startswith("text")}
    save_file(text, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks .*vision_model"):
        ClipLabeller(folder, 0.0)


def test_a_candidate_that_no_caption_states_is_not_proposed(clip):
    alone = replace(image(0), pairs=[Pair(0, 1, "on", -1, 1)])
    assert [(r.proposed, r.triplet) for r in ClipLabeller(clip, 0.0).label([alone])[0].relations] == [(False, -1)]


def test_crops_together_or_one_by_one(clip):
    together, alone = (ClipLabeller(clip, 0.0, crops_together=n).label([image(0)])[0] for n in (8, 1))
    assert [r.score for r in together.relations] == pytest.approx([r.score for r in alone.relations], abs=1e-5)


def test_texts_beyond_the_limit_are_encoded_again(clip, monkeypatch):
    wanted = ClipLabeller(clip, 0.0).label([image(0), image(1)])
    monkeypatch.setattr("tagger.labelling.clip_labeller.CACHE_LIMIT", 1)
    labeller = ClipLabeller(clip, 0.0)
    assert labeller.label([image(0), image(1)]) == wanted and labeller._text_feature.cache_info().currsize == 1


def test_only_what_is_around_both_boxes_is_seen(clip):
    pixels = torch.rand(3, 40, 60, generator=torch.Generator().manual_seed(0))
    changed = pixels.clone()
    changed[:, 31:] = 0  # the boxes end at row 30
    same = TaggingImage(120, 80, image(0).boxes, PAIRS, (40, 60), lambda: changed)
    labeller = ClipLabeller(clip, 0.0)
    assert labeller.label([image(0)]) == labeller.label([same])


def test_unreadable_images_and_images_without_candidates(clip):
    problem = Problem("truncated")
    idle = TaggingImage(120, 80, image(0).boxes, [], (40, 60), lambda: problem)
    assert ClipLabeller(clip, 0.0).label([image(0, problem), idle]) == [Labels(problem=problem), Labels()]


def test_labels_made_blindly():
    [naive], [prior] = BlindLabeller("naive", 0.05).label([image(0)]), BlindLabeller("prior", 0.35).label([image(0)])
    assert [(r.subject, r.predicate, r.score) for r in naive.relations] == [
        (0, "ride", 1), (1, "ride", 1), (0, "next to", 1),
    ]  # fmt: skip
    assert [(r.subject, r.predicate, r.score) for r in prior.relations] == [(0, "ride", 0.9), (0, "next to", 0.4)]
