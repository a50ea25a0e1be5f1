"""Evaluates a captioner's captions against the planted relations, with the grammar's own reader."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import BlipForConditionalGeneration

from scenes.captioning.feed import triplet
from scenes.captioning.model import DEC, PROMPT, SEP, SPECIAL, words
from scenes.captioning.reading import read
from scenes.predicates import SYMMETRIC

DRAWS = 10
AT_ONCE = 25


@torch.no_grad()
def draw_captions(model: BlipForConditionalGeneration, pixels: Tensor, draws: int = DRAWS) -> list[list[str]]:
    """Samples captions of each image like BLIP's authors: prompt, nucleus p = 0.9, 5 to 20 tokens with the prompt."""
    vocabulary = words()
    prompt = [DEC, *(vocabulary.index(w) for w in PROMPT.split())]
    out: list[list[str]] = []
    for start in range(0, len(pixels), AT_ONCE):
        some = pixels[start : start + AT_ONCE]
        ids = torch.tensor([[*prompt, SEP]] * len(some), dtype=torch.long)
        found = model.generate(
            pixel_values=some, input_ids=ids,  # type: ignore[arg-type]
            do_sample=True, top_p=0.9, top_k=0, min_length=5, max_length=20,
            num_return_sequences=draws,
        )  # fmt: skip
        rows = [[vocabulary[t] for t in row[len(prompt) :] if t >= len(SPECIAL)] for row in found.tolist()]
        texts = [" ".join(row) for row in rows]
        out += [texts[i * draws : (i + 1) * draws] for i in range(len(some))]
    return out


def judge_captions(scenes: Sequence[dict[str, Any]], drawn: Sequence[Sequence[str]]) -> dict[str, float]:
    """Returns `precision`, the share of stated triplets that are true; `recall`, the share of planted triplets that
    some caption states; and `silent`, the share of captions that state none."""  # fmt: skip
    stated = true = planted = found = silent = texts_read = 0
    for scene, texts in zip(scenes, drawn, strict=True):
        truth = {triplet(scene, r) for r in scene["relations"]}
        holds = truth | {(o, p, s) for s, p, o in truth if p in SYMMETRIC}
        stated_here = set()
        for text in texts:
            triplets = read(text)
            texts_read += 1
            silent += not triplets
            stated += len(triplets)
            true += len(triplets & holds)
            stated_here |= triplets | {(o, p, s) for s, p, o in triplets if p in SYMMETRIC}
        planted += len(truth)
        found += len(truth & stated_here)
    return {"precision": true / max(1, stated), "recall": found / planted, "silent": silent / texts_read}
