"""The tokenizer of the label texts: a RoBERTa folder's, or one made from the names that are to be read."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from storage.errors import Terminal

FILES = ("tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json")
"""The files of a tokenizer folder that are kept with weights."""
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
"""In RoBERTa's order: their places are their ids."""


def tokenizer_files(folder: Path) -> dict[str, Path]:
    """The tokenizer's files in a folder, by name."""
    return {name: folder / name for name in FILES if (folder / name).is_file()}


def is_tokenizer(folder: Path) -> bool:
    """Whether a folder holds what a tokenizer is read from."""
    found = tokenizer_files(folder).keys()
    return "tokenizer.json" in found or {"vocab.json", "merges.txt"} <= found


def copy_tokenizer(source: Path, folder: Path) -> None:
    """Copy a tokenizer's files. Raises `Terminal` when the folder has none."""
    if not is_tokenizer(source):
        raise Terminal(f"tokenizer = {source}: needs tokenizer.json, or vocab.json and merges.txt, as roberta-base has")
    folder.mkdir(parents=True, exist_ok=True)
    for name, path in tokenizer_files(source).items():
        shutil.copyfile(path, folder / name)


def make_tokenizer(names: Iterable[str], vocabulary: int, folder: Path) -> None:
    """Write a byte-level BPE of RoBERTa's form: all bytes, and merges that make the names' words single tokens.

    `vocabulary`: the most tokens it may have, at least 261.
    """
    from tokenizers import ByteLevelBPETokenizer

    tokenizer = ByteLevelBPETokenizer()
    words = sorted({part for name in names for part in (name, *(f" {word}" for word in name.split(" ")))})
    tokenizer.train_from_iterator(words, vocabulary, min_frequency=1, special_tokens=SPECIAL, show_progress=False)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_model(str(folder))
