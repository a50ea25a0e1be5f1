"""The shipped captioner loads like any BLIP, is small, and states true relations of scenes it was not trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, BertTokenizer, BlipForConditionalGeneration, BlipProcessor

from scenes.captioning.feed import description, normalise, render_small
from scenes.captioning.model import DEC, PROMPT, SEP, words
from scenes.scene import render
from scenes.train_captioner import draw_captions, judge_captions
from scenes.world import make_scene

SEED = 777_777


@pytest.fixture(scope="module")
def folder(root: Path) -> Path:
    return root / "scenes/weights/captioner"


@pytest.fixture(scope="module")
def model(folder: Path) -> BlipForConditionalGeneration:
    return BlipForConditionalGeneration.from_pretrained(folder, local_files_only=True).eval()


def test_files_are_small_and_half_precision(folder: Path) -> None:
    assert (folder / "model.safetensors").stat().st_size <= 5_000_000
    assert (folder / "README.md").is_file()
    assert not list(folder.glob("*.bin"))


@pytest.mark.parametrize("loader", [AutoTokenizer, BertTokenizer])
def test_tokenizer_and_model_agree(folder: Path, model: BlipForConditionalGeneration, loader: type) -> None:
    tokenizer = loader.from_pretrained(folder, local_files_only=True)
    assert len(tokenizer) == model.config.text_config.vocab_size == len(words())
    assert tokenizer.convert_ids_to_tokens(list(range(len(words())))) == words()
    text = model.config.text_config
    assert tokenizer.sep_token_id == text.sep_token_id == SEP
    assert text.bos_token_id == DEC and tokenizer.pad_token_id == text.pad_token_id
    assert tokenizer(PROMPT)["input_ids"][1:-1] == [words().index(word) for word in PROMPT.split()]


def test_processor_sees_what_training_saw(folder: Path) -> None:
    processor = BlipProcessor.from_pretrained(folder, local_files_only=True)
    scene = make_scene(SEED, 0)
    pixels = processor(images=render(scene), text=PROMPT, return_tensors="pt")["pixel_values"]
    assert torch.allclose(pixels, normalise(render_small(scene)[None]), atol=0.05)


def test_captions_are_mostly_true(model: BlipForConditionalGeneration) -> None:
    scenes = [make_scene(SEED, i) for i in range(24)]
    torch.manual_seed(1)
    drawn = draw_captions(model, normalise(np.stack([render_small(scene) for scene in scenes])))
    figures = judge_captions([description(scene) for scene in scenes], drawn)
    assert figures["precision"] >= 0.6, figures
    assert figures["recall"] >= 0.75, figures
    assert figures["silent"] <= 0.02, figures
