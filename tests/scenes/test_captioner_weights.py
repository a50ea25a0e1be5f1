"""The shipped captioner and tokenizer load like any BLIP and RoBERTa; captions state true relations of new scenes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, BertTokenizer, BlipForConditionalGeneration, BlipProcessor, RobertaTokenizer

from scenes.captioner_model import DEC, PROMPT, SEP, words
from scenes.names import COCO_CATEGORIES, PREDICATES, canonical_names
from scenes.scene import render
from scenes.train_captioner import description, draw_captions, judge_captions, normalise, render_small
from scenes.train_text_tokenizer import write_tokenizer
from scenes.world import make_scene

SEED = 777_777


@pytest.fixture(scope="module")
def folder(root: Path) -> Path:
    return root / "scenes/weights/captioner"


@pytest.fixture(scope="module")
def model(folder: Path) -> BlipForConditionalGeneration:
    return BlipForConditionalGeneration.from_pretrained(folder, local_files_only=True).eval()


def test_files_are_small_and_half_precision(folder):
    assert (folder / "model.safetensors").stat().st_size <= 5_000_000
    assert (folder / "README.md").is_file()
    assert not list(folder.glob("*.bin"))


@pytest.mark.parametrize("loader", [AutoTokenizer, BertTokenizer])
def test_tokenizer_and_model_agree(folder, model, loader):
    tokenizer = loader.from_pretrained(folder, local_files_only=True)
    assert len(tokenizer) == model.config.text_config.vocab_size == len(words())
    assert tokenizer.convert_ids_to_tokens(list(range(len(words())))) == words()
    text = model.config.text_config
    assert tokenizer.sep_token_id == text.sep_token_id == SEP
    assert text.bos_token_id == DEC and tokenizer.pad_token_id == text.pad_token_id
    assert tokenizer(PROMPT)["input_ids"][1:-1] == [words().index(word) for word in PROMPT.split()]


def test_processor_sees_what_training_saw(folder):
    processor = BlipProcessor.from_pretrained(folder, local_files_only=True)
    scene = make_scene(SEED, 0)
    pixels = processor(images=render(scene), text=PROMPT, return_tensors="pt")["pixel_values"]
    assert torch.allclose(pixels, normalise(render_small(scene)[None]), atol=0.05)


def test_captions_are_mostly_true(model):
    scenes = [make_scene(SEED, i) for i in range(24)]
    torch.manual_seed(1)
    drawn = draw_captions(model, normalise(np.stack([render_small(scene) for scene in scenes])))
    figures = judge_captions([description(scene) for scene in scenes], drawn)
    assert figures["precision"] >= 0.6, figures
    assert figures["recall"] >= 0.75, figures
    assert figures["silent"] <= 0.02, figures


@pytest.mark.parametrize("loader", [AutoTokenizer, RobertaTokenizer])
def test_loads_as_roberta(root, loader):
    tokenizer = loader.from_pretrained(root / "scenes/weights/text", local_files_only=True)
    assert tokenizer.convert_tokens_to_ids(["<s>", "<pad>", "</s>", "<unk>"]) == [0, 1, 2, 3]
    batch = tokenizer(["person", "riding a horse"], padding=True)
    assert batch["input_ids"][0][0] == 0 and batch["input_ids"][0][-1] == 1


def test_any_string_survives_and_names_are_short(root):
    tokenizer = RobertaTokenizer.from_pretrained(root / "scenes/weights/text", local_files_only=True)
    for text in ("zebra crossing", "café 中文 🙂", "no objects", "A  b\tc"):
        ids = tokenizer(text)["input_ids"]
        assert 3 not in ids
        assert tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False) == text
    for name in (*COCO_CATEGORIES, *PREDICATES, *canonical_names()):
        assert len(tokenizer.tokenize(name)) <= 3, name


def test_the_script_makes_the_shipped_files(root, tmp_path):
    write_tokenizer(tmp_path)
    for name in ("vocab.json", "merges.txt"):
        assert (tmp_path / name).read_text() == (root / "scenes/weights/text" / name).read_text()
