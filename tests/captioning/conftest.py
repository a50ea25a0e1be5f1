"""A BLIP with random weights, small enough to caption in milliseconds, saved as a model folder."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from lavis_checkpoint import to_lavis
from PIL import Image
from transformers import BertTokenizerFast, BlipConfig, BlipForConditionalGeneration

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]"]
PROMPT = ["a", "picture", "of"]
VOCABULARY = 90


def save_blip(folder: Path, spread: float = 0.25, width: int = 48, heads: int = 3) -> Path:
    """Write a random BLIP whose captions end at different lengths; `spread` sets how much its logits differ."""
    folder.mkdir()
    words = SPECIAL + PROMPT + [f"word{i}" for i in range(VOCABULARY - len(SPECIAL) - len(PROMPT))]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    sizes = {"hidden_size": width, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": heads}
    begin, end = words.index("[DEC]"), words.index("[SEP]")
    special = {"bos_token_id": begin, "sep_token_id": end, "eos_token_id": end, "pad_token_id": 0}
    vocabulary = {"vocab_size": VOCABULARY, "max_position_embeddings": 40, **special}
    config = BlipConfig(
        vision_config={**sizes, "image_size": 64, "patch_size": 16, "layer_norm_eps": 1e-6},
        text_config={**sizes, **vocabulary, "encoder_hidden_size": width},
        projection_dim=width,
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
    torch.set_num_threads(1)
    return save_blip(tmp_path_factory.mktemp("models") / "small-blip")


@pytest.fixture(scope="session")
def one_blip(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """One BLIP twice: a folder for transformers, and a folder with a checkpoint that has LAVIS's names."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("one")
    original = save_blip(folder / "original", width=128, heads=2, spread=0.12)
    lavis = folder / "lavis"
    lavis.mkdir()
    shutil.copy(original / "vocab.txt", lavis)
    state = BlipForConditionalGeneration.from_pretrained(original).state_dict()
    torch.save({"model": to_lavis(state)}, lavis / "blip.pth")
    return original, lavis


@pytest.fixture(scope="session")
def pictures() -> list[Image.Image]:
    """Eleven noise images of three sizes."""
    random = np.random.default_rng(3)
    sizes = [(64, 64), (80, 50), (50, 90)]
    shapes = [sizes[i % 3] for i in range(11)]
    return [Image.fromarray(random.integers(0, 255, (h, w, 3), dtype=np.uint8)) for w, h in shapes]
