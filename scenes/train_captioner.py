"""Trains the captioner on synthetic scenes: `python -m scenes.train_captioner --out DIR --minutes 86 --threads 1`.

Each image is encoded once for several captions in one pass of the decoder. Two heads, which the exported captioner
drops, help the encoder learn faster. After an interruption, the same command resumes from the last checkpoint.
"""

import argparse
import json
import math
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import BlipForConditionalGeneration

from scenes.captioning.feed import PARTS, Feed, ImageCache, normalise, triplet
from scenes.captioning.model import DEC, PROMPT, SEP, SPECIAL, Learner, export, words
from scenes.grammar import read
from scenes.names import SYMMETRIC

HELD_OUT_SEED = 900_000
HELD_OUT = 100
WARMUP = 300
SAVE_SECONDS = 180
DRAWS = 10
AT_ONCE = 25


@dataclass(frozen=True)
class Settings:
    """Duration, data and hyperparameters of the training."""

    out: Path
    minutes: float
    threads: int
    images: Path
    seed: int
    scenes: int
    batch: int
    captions: int
    rate: float
    check_minutes: float

    def rate_at(self, step: int, share: float) -> float:
        """Learning rate: linear warm-up over steps, times a cosine over the share of the time spent."""
        return self.rate * min(1.0, (step + 1) / WARMUP) * (0.51 + 0.5 * math.cos(math.pi * share))


def train(settings: Settings) -> None:
    """Trains for `minutes`, then exports to `out/captioner`. SIGINT or SIGTERM saves a checkpoint and stops early."""
    torch.set_num_threads(settings.threads)
    settings.out.mkdir(parents=True, exist_ok=True)
    held_out = ImageCache.open(settings.images, HELD_OUT_SEED, HELD_OUT)
    cache = ImageCache.open(settings.images, settings.seed, settings.scenes)
    feed = Feed(cache, settings.seed, settings.batch, settings.captions)
    learner = Learner(len(PARTS), len(feed.triplets))
    optimizer = torch.optim.AdamW(learner.groups(decay=0.05), lr=settings.rate, betas=(0.9, 0.98))
    checkpoint = settings.out / "checkpoint.safetensors"
    step, spent = load_checkpoint(checkpoint, learner, optimizer) if checkpoint.exists() else (0, 0.0)
    budget = settings.minutes * 60
    saved = checked = spent
    sums: dict[str, float] = {}
    stops: list[int] = []
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda number, _: stops.append(number))
    with (settings.out / "log.jsonl").open("a") as log:
        while spent < budget and not stops:
            began = time.perf_counter()
            losses = _step(learner, optimizer, feed.batch(step), settings.rate_at(step, spent / budget))
            step += 1
            spent += time.perf_counter() - began
            sums = {key: sums.get(key, 0.0) + value.item() / 100 for key, value in losses.items()}
            if step % 100 == 0:
                _log(log, {"step": step, "minutes": spent / 60, **sums})
                sums = {}
            if spent - saved > SAVE_SECONDS:
                save_checkpoint(checkpoint, learner, optimizer, step, spent)
                saved = spent
            if spent - checked > settings.check_minutes * 60:
                _check(settings, learner, held_out, log, spent)
                checked = spent
        save_checkpoint(checkpoint, learner, optimizer, step, spent)
        if not stops:
            _check(settings, learner, held_out, log, spent)


def _step(
    learner: Learner, optimizer: torch.optim.Optimizer, batch: dict[str, Tensor], rate: float
) -> dict[str, Tensor]:
    for group in optimizer.param_groups:
        group["lr"] = rate
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = learner(batch)
    optimizer.zero_grad(set_to_none=True)
    losses["loss"].backward()
    nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
    optimizer.step()
    return {name: value.detach() for name, value in losses.items()}


def _check(settings: Settings, learner: Learner, held_out: ImageCache, log: TextIO, spent: float) -> None:
    """Logs precision and recall on held-out scenes, and exports the current captioner."""
    learner.eval()
    state = torch.get_rng_state()
    torch.manual_seed(0)
    drawn = draw_captions(learner.captioner, normalise(np.asarray(held_out.images)))
    torch.set_rng_state(state)
    learner.train()
    figures = judge_captions(held_out.scenes, drawn)
    _log(log, {"minutes": spent / 60, **figures, "examples": [texts[0] for texts in drawn[:4]]})
    export(learner.captioner, settings.out / "captioner")


def _log(log: TextIO, entry: dict[str, Any]) -> None:
    print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in entry.items()}), file=log, flush=True)


@torch.no_grad()
def draw_captions(model: BlipForConditionalGeneration, pixels: Tensor, draws: int = DRAWS) -> list[list[str]]:
    """Samples captions of each image like BLIP's authors: prompt, nucleus p = 0.9, 5 to 20 tokens with the prompt."""
    vocabulary = words()
    prompt = [DEC, *(vocabulary.index(w) for w in PROMPT.split())]
    out: list[list[str]] = []
    for start in range(0, len(pixels), AT_ONCE):
        some = pixels[start : start + AT_ONCE]
        ids = torch.tensor([[*prompt, SEP]] * len(some), dtype=torch.long)
        tokens = model.generate(
            pixel_values=some, input_ids=ids,  # type: ignore[arg-type]
            do_sample=True, top_p=0.9, top_k=0, min_length=5, max_length=20,
            num_return_sequences=draws,
        )  # fmt: skip
        rows = [[vocabulary[t] for t in row[len(prompt) :] if t >= len(SPECIAL)] for row in tokens.tolist()]
        texts = [" ".join(row) for row in rows]
        out += [texts[i * draws : (i + 1) * draws] for i in range(len(some))]
    return out


def judge_captions(scenes: Sequence[dict[str, Any]], drawn: Sequence[Sequence[str]]) -> dict[str, float]:
    """Returns `precision`, the share of stated triplets that are true; `recall`, the share of planted triplets that
    some caption states; and `silent`, the share of captions that state none."""  # fmt: skip
    stated = true = planted = recalled = silent = texts_read = 0
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
        recalled += len(truth & stated_here)
    return {"precision": true / max(1, stated), "recall": recalled / planted, "silent": silent / texts_read}


def save_checkpoint(path: Path, learner: Learner, optimizer: torch.optim.Optimizer, step: int, seconds: float) -> None:
    """Saves weights, optimizer state, step and seconds spent. A kill leaves either the old or the new file."""
    tensors = {f"model.{name}": p.detach().contiguous() for name, p in learner.named_parameters()}
    for i, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{i}.{key}": value.contiguous() for key, value in state.items()}
    aside = path.with_suffix(".part")
    save_file(tensors, aside, metadata={"step": str(step), "seconds": str(seconds)})
    aside.replace(path)


def load_checkpoint(path: Path, learner: Learner, optimizer: torch.optim.Optimizer) -> tuple[int, float]:
    """Restores a checkpoint. Returns its step and the seconds spent before it."""
    tensors = load_file(path)
    # `named_parameters` lists tied parameters once, so the file does too.
    with torch.no_grad():
        for name, parameter in learner.named_parameters():
            parameter.copy_(tensors[f"model.{name}"])
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, i, name = key.split(".")
            state.setdefault(int(i), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    return int(metadata["step"]), float(metadata["seconds"])


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoint, log and exported captioner")
    parser.add_argument("--minutes", type=float, default=86, help="training time, including earlier runs")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--images", type=Path, help="folder for the drawn images, 3 GB (default: OUT/images)")
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--scenes", type=int, default=40_000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--captions", type=int, default=4, help="captions per image in each step")
    parser.add_argument("--rate", type=float, default=1.2e-3)
    parser.add_argument("--check-minutes", type=float, default=8)
    arguments = vars(parser.parse_args())
    arguments["images"] = arguments["images"] or arguments["out"] / "images"
    train(Settings(**arguments))


if __name__ == "__main__":
    main()
