"""Trains the captioner on synthetic scenes: `python -m scenes.train_captioner --out DIR --minutes 86 --threads 1`.

Each image is encoded once for several captions in one pass of the decoder. Two heads, which the exported captioner
drops, help the encoder learn faster. After an interruption, the same command resumes from the last checkpoint.
"""

import argparse
import json
import math
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from torch import Tensor, nn

from scenes.captioning.checkpoint import load_checkpoint, save_checkpoint
from scenes.captioning.feed import PARTS, Feed, normalise
from scenes.captioning.learner import Learner
from scenes.captioning.measure import draw_captions, judge_captions
from scenes.captioning.model import export
from scenes.captioning.picture_cache import PictureCache

HELD_OUT_SEED = 900_000
HELD_OUT = 100
WARMUP = 300
SAVE_SECONDS = 180


@dataclass(frozen=True)
class Settings:
    """Duration, data and hyperparameters of the training."""

    out: Path
    minutes: float
    threads: int
    pictures: Path
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
    held_out = PictureCache.open(settings.pictures, HELD_OUT_SEED, HELD_OUT)
    cache = PictureCache.open(settings.pictures, settings.seed, settings.scenes)
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
                _note(log, {"step": step, "minutes": spent / 60, **sums})
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


def _check(settings: Settings, learner: Learner, held_out: PictureCache, log: TextIO, spent: float) -> None:
    """Logs precision and recall on held-out scenes, and exports the current captioner."""
    learner.eval()
    state = torch.get_rng_state()
    torch.manual_seed(0)
    drawn = draw_captions(learner.captioner, normalise(np.asarray(held_out.pictures)))
    torch.set_rng_state(state)
    learner.train()
    figures = judge_captions(held_out.scenes, drawn)
    _note(log, {"minutes": spent / 60, **figures, "examples": [texts[0] for texts in drawn[:4]]})
    export(learner.captioner, settings.out / "captioner")


def _note(log: TextIO, entry: dict[str, Any]) -> None:
    print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in entry.items()}), file=log, flush=True)


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoint, log and exported captioner")
    parser.add_argument("--minutes", type=float, default=86, help="training time, including earlier runs")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--pictures", type=Path, help="folder for the drawn images, 3 GB (default: OUT/pictures)")
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--scenes", type=int, default=40_000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--captions", type=int, default=4, help="captions per image in each step")
    parser.add_argument("--rate", type=float, default=1.2e-3)
    parser.add_argument("--check-minutes", type=float, default=8)
    given = vars(parser.parse_args())
    given["pictures"] = given["pictures"] or given["out"] / "pictures"
    train(Settings(**given))


if __name__ == "__main__":
    main()
