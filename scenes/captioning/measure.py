"""What a captioner's draws state, against the planted truth, by the grammar's own reader."""

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
    """Nucleus draws of each picture as BLIP's authors make them: prompt, p = 0.9, 5 to 20 tokens with the prompt."""
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
    """`precision`: share of stated triplets that are true; `recall`: share of planted ones that some draw states;
    `silent`: share of captions that state none."""  # fmt: skip
    stated = true = planted = found = silent = texts_read = 0
    for scene, texts in zip(scenes, drawn, strict=True):
        truth = {triplet(scene, r) for r in scene["relations"]}
        holds = truth | {(o, p, s) for s, p, o in truth if p in SYMMETRIC}
        said_here = set()
        for text in texts:
            said = read(text)
            texts_read += 1
            silent += not said
            stated += len(said)
            true += len(said & holds)
            said_here |= said | {(o, p, s) for s, p, o in said if p in SYMMETRIC}
        planted += len(truth)
        found += len(truth & said_here)
    return {"precision": true / max(1, stated), "recall": found / planted, "silent": silent / texts_read}
