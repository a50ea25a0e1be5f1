"""Fixtures: small networks and a small tokenizer."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import ByteLevelBPETokenizer

from benchmarks.parity import OWN
from models.config import NetworkConfig, TextConfig


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a small byte-level tokenizer like RoBERTa's."""
    folder = tmp_path_factory.mktemp("tokenizer")
    model = ByteLevelBPETokenizer(lowercase=True)
    words = ["person dog bicycle traffic light riding holding sitting on next to no objects"] * 4
    model.train_from_iterator(
        words, vocab_size=300, show_progress=False, special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    )
    model.save_model(str(folder))
    return folder


@pytest.fixture(scope="session")
def small_config() -> NetworkConfig:
    """A ParSeDA that trains from scratch in moments."""
    text = TextConfig(hidden=32, layers=1, heads=2, feedforward=32, vocabulary=300, max_positions=16, dropout=0.0)
    return NetworkConfig(
        architecture="parseda", backbone="test_resnet", backbone_norm="group", width=32, heads=2, points=2,
        encoder_layers=2, decoder_layers=2, feedforward=32, pairs=5, fusion_width=32, fusion_heads=2, text=text,
    )  # fmt: skip


@pytest.fixture(scope="session")
def small_tagger_config(small_config: NetworkConfig) -> NetworkConfig:
    """A tagger of the same size."""
    return replace(small_config, architecture="parsed", tagger=True)


@pytest.fixture(scope="session")
def own() -> Path:
    """Folder of our own recordings."""
    return OWN


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """One thread and a fixed seed, for the same order of additions on every machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)
