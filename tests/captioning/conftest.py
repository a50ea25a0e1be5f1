"""A BLIP with random weights, small enough to caption in milliseconds, saved as a model folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BertTokenizerFast, BlipConfig, BlipForConditionalGeneration

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]"]
PROMPT = ["a", "picture", "of"]
VOCABULARY = 90


def save_blip(folder: Path, spread: float = 0.25) -> Path:
    """Write a random BLIP whose captions end at different lengths; `spread` sets how much its logits differ."""
    folder.mkdir()
    words = SPECIAL + PROMPT + [f"word{i}" for i in range(VOCABULARY - len(SPECIAL) - len(PROMPT))]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    sizes = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 3}
    config = BlipConfig(
        vision_config={**sizes, "image_size": 64, "patch_size": 16},
        text_config={
            **sizes,
            "vocab_size": VOCABULARY,
            "encoder_hidden_size": 48,
            "max_position_embeddings": 40,
            "bos_token_id": words.index("[DEC]"),
            "sep_token_id": words.index("[SEP]"),
            "eos_token_id": words.index("[SEP]"),
            "pad_token_id": 0,
        },
        projection_dim=48,
    )
    torch.manual_seed(5)
    model = BlipForConditionalGeneration(config)
    for weights in model.parameters():
        if weights.dim() > 1:
            torch.nn.init.normal_(weights, std=spread)
    bias = model.text_decoder.cls.predictions.bias
    torch.nn.init.normal_(bias, std=1.0)
    with torch.no_grad():
        bias[: len(SPECIAL)] = -8.0
        bias[words.index("[SEP]")] = 3.0
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def blip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder as `BlipCaptioner` loads it."""
    torch.set_num_threads(1)
    return save_blip(tmp_path_factory.mktemp("models") / "small-blip")


@pytest.fixture(scope="session")
def pictures() -> list[Image.Image]:
    """Eleven pictures of noise of different sizes."""
    random = np.random.default_rng(3)
    sizes = [(64, 64), (80, 50), (50, 90)]
    shapes = [sizes[i % 3] for i in range(11)]
    return [Image.fromarray(random.integers(0, 255, (h, w, 3), dtype=np.uint8)) for w, h in shapes]
