"""Trains the byte-level vocabulary of the small text encoders: `python -m scenes.train_text_tokenizer --out FOLDER`.

It encodes any string, because it contains all 256 bytes. Names of objects and relations become one or two tokens.
"""

import json
from pathlib import Path
from random import Random
from typing import Annotated

import typer
from tokenizers import ByteLevelBPETokenizer

from scenes.grammar import FORMS, NOUNS, caption
from scenes.names import CANONICAL, COCO_CATEGORIES, PREDICATES
from scenes.world import make_scene

SIZE = 1200
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
"""RoBERTa's special tokens. The first four have RoBERTa's ids, 0 to 3."""


def corpus(scenes: int = 400, seed: int = 7) -> list[str]:
    """Returns names and predicates, each with and without a leading space, and captions of some scenes."""
    lines = [*COCO_CATEGORIES, *PREDICATES, *CANONICAL.values()]
    lines += ["no objects", "no relation", "in front of", "a photo of"]
    lines += [noun for nouns in NOUNS.values() for noun in nouns]
    for participles, third, passive in FORMS.values():
        lines += [*participles, third, passive or ""]
    # Repeated, so that names get their tokens before other words of the captions do
    lines = 5 * [form for line in lines if line for form in (line, f" {line}")]
    rng = Random(seed)
    for i in range(scenes):
        scene = make_scene(seed, i)
        things = [(o.category, o.noun, o.colour) for o in scene.objects]
        lines.append(caption(things, [(r.subject, r.predicate, r.object) for r in scene.relations], rng))
    return lines


def write_tokenizer(folder: Annotated[Path, typer.Option("--out")]) -> None:
    """Writes vocab.json, merges.txt, RoBERTa's two tokenizer files and config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(
        corpus(), vocab_size=SIZE, min_frequency=2, special_tokens=list(SPECIAL), show_progress=False
    )
    tokenizer.save_model(str(folder))
    special = {
        "bos_token": "<s>", "eos_token": "</s>", "sep_token": "</s>", "cls_token": "<s>", "unk_token": "<unk>",
        "pad_token": "<pad>", "mask_token": "<mask>",
    }  # fmt: skip
    settings = {**special, "add_prefix_space": False, "model_max_length": 62, "tokenizer_class": "RobertaTokenizer"}
    for name, content in (("special_tokens_map.json", special), ("tokenizer_config.json", settings)):
        (folder / name).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
    # AutoTokenizer needs the model's type.
    (folder / "config.json").write_text(json.dumps({"model_type": "roberta"}) + "\n")


if __name__ == "__main__":
    typer.run(write_tokenizer)
