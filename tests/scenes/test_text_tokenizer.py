"""The vocabulary of the small text encoders has RoBERTa's special ids, encodes any string, and keeps names short."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer, RobertaTokenizer

from scenes.names import COCO_CATEGORIES, PREDICATES, canonical_names
from scenes.train_text_tokenizer import write_tokenizer


@pytest.mark.parametrize("loader", [AutoTokenizer, RobertaTokenizer])
def test_loads_as_roberta(root: Path, loader: type) -> None:
    tokenizer = loader.from_pretrained(root / "scenes/weights/text", local_files_only=True)
    assert tokenizer.convert_tokens_to_ids(["<s>", "<pad>", "</s>", "<unk>"]) == [0, 1, 2, 3]
    batch = tokenizer(["person", "riding a horse"], padding=True)
    assert batch["input_ids"][0][0] == 0 and batch["input_ids"][0][-1] == 1


def test_any_string_survives_and_names_are_short(root: Path) -> None:
    tokenizer = RobertaTokenizer.from_pretrained(root / "scenes/weights/text", local_files_only=True)
    for text in ("zebra crossing", "café 中文 🙂", "no objects", "A  b\tc"):
        ids = tokenizer(text)["input_ids"]
        assert 3 not in ids
        assert tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False) == text
    for name in (*COCO_CATEGORIES, *PREDICATES, *canonical_names()):
        assert len(tokenizer.tokenize(name)) <= 3, name


def test_the_script_makes_the_shipped_files(root: Path, tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    for name in ("vocab.json", "merges.txt"):
        assert (tmp_path / name).read_text() == (root / "scenes/weights/text" / name).read_text()
