"""Trains the captioner on synthetic scenes: `python -m scenes.train_captioner --out DIR --minutes 86 --threads 1`.

`python -m benchmarks.captioner --captioner DIR/captioner` measures what it exports.

Each image is encoded once for several captions in one pass of the decoder. Two heads, which the exported captioner
drops, help the encoder learn faster. After an interruption, the same command resumes from the last checkpoint.
"""

from __future__ import annotations

import json
import math
import signal
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from random import Random
from typing import Annotated, Any, TextIO

import numpy as np
import torch
import typer
from PIL import Image
from torch import Tensor, nn
from transformers import BlipImageProcessor

from scenes.captioner_model import DEC, GRID, PAD, PROMPT, SEP, SIDE, Learner, export, words
from scenes.grammar import caption
from scenes.names import PEOPLE, PREDICATES, WORLD_CATEGORIES
from scenes.scene import Scene, render
from scenes.world import make_scene

WARMUP = 300
SAVE_SECONDS = 180


def train(
    out: Annotated[Path, typer.Option(help="Folder for the checkpoint, log and exported captioner.")],
    minutes: Annotated[float, typer.Option(help="Training time, including earlier runs.")] = 86,
    threads: int = 1,
    images: Annotated[
        Path | None, typer.Option(help="Folder for the drawn images, 3 GB.", show_default="OUT/images")
    ] = None,
    seed: int = 1000,
    scenes: int = 40_000,
    batch: int = 32,
    captions: Annotated[int, typer.Option(help="Captions per image in each step.")] = 4,
    rate: float = 1.2e-3,
    export_minutes: Annotated[float, typer.Option(help="Minutes between exports.")] = 8,
) -> None:
    """Trains for some minutes, then exports to OUT/captioner. SIGINT or SIGTERM saves a checkpoint and stops early."""
    torch.set_num_threads(threads)
    out.mkdir(parents=True, exist_ok=True)
    images = images or out / "images"
    feed = Feed(ImageCache.open(images, seed, scenes), seed, batch, captions)
    learner = Learner(len(PARTS), len(feed.triplets))
    optimizer = torch.optim.AdamW(learner.groups(decay=0.05), lr=rate, betas=(0.9, 0.98))
    checkpoint = out / "checkpoint.pt"
    step, spent = load_checkpoint(checkpoint, learner, optimizer) if checkpoint.exists() else (0, 0.0)
    budget = minutes * 60
    saved = exported = spent
    sums: dict[str, float] = {}
    logged = step
    stops: list[int] = []
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda number, _: stops.append(number))
    with (out / "log.jsonl").open("a") as log:
        while spent < budget and not stops:
            began = time.perf_counter()
            # Linear warm-up over steps, times a cosine over the share of the time spent.
            scale = min(1.0, (step + 1) / WARMUP) * (0.51 + 0.5 * math.cos(math.pi * spent / budget))
            losses = _step(learner, optimizer, feed.batch(step), rate * scale)
            step += 1
            spent += time.perf_counter() - began
            sums = {key: sums.get(key, 0.0) + value.item() for key, value in losses.items()}
            if step % 100 == 0:
                means = {key: value / (step - logged) for key, value in sums.items()}
                _log(log, {"step": step, "minutes": spent / 60, **means})
                sums, logged = {}, step
            if spent - saved > SAVE_SECONDS:
                save_checkpoint(checkpoint, learner, optimizer, step, spent)
                saved = spent
            if spent - exported > export_minutes * 60:
                export(learner.captioner, out / "captioner")
                exported = spent
        save_checkpoint(checkpoint, learner, optimizer, step, spent)
        if not stops:
            export(learner.captioner, out / "captioner")


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


def _log(log: TextIO, entry: dict[str, Any]) -> None:
    print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in entry.items()}), file=log, flush=True)


def save_checkpoint(path: Path, learner: Learner, optimizer: torch.optim.Optimizer, step: int, seconds: float) -> None:
    """Saves weights, optimizer state, step and seconds spent. A kill leaves either the old or the new file."""
    aside = path.with_suffix(".part")
    state = {"model": learner.state_dict(), "optimizer": optimizer.state_dict(), "step": step, "seconds": seconds}
    torch.save(state, aside)
    aside.replace(path)


def load_checkpoint(path: Path, learner: Learner, optimizer: torch.optim.Optimizer) -> tuple[int, float]:
    """Restores a checkpoint. Returns its step and the seconds spent before it."""
    state = torch.load(path, weights_only=True)
    learner.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return state["step"], state["seconds"]


KNOWN_SCENES = 5_000
"""The relation head has an output for each triplet in this many scenes; rarer triplets have none."""
PARTS = (*WORLD_CATEGORIES, *PEOPLE, *(f"{p} subject" for p in PREDICATES), *(f"{p} object" for p in PREDICATES))


def render_small(scene: Scene) -> np.ndarray:
    """Renders a scene as (SIDE, SIDE, 3) uint8."""
    return np.asarray(render(scene).resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def description(scene: Scene) -> dict[str, Any]:
    """Describes a scene for captions and training targets. Boxes are shares of the image's width and height."""
    w, h = scene.width, scene.height
    return {
        "objects": [
            [o.category, o.noun, o.colour, [round(v / side, 4) for v, side in zip(o.box, (w, h, w, h), strict=True)]]
            for o in scene.objects
        ],
        "relations": [[r.subject, r.predicate, r.object] for r in scene.relations],
    }


def _drawn(seed: int, index: int) -> tuple[np.ndarray, str]:
    scene = make_scene(seed, index)
    return render_small(scene), json.dumps(description(scene))


@dataclass(frozen=True)
class ImageCache:
    """`images` is (scenes, SIDE, SIDE, 3) uint8, memory-mapped; `scenes` holds each scene's description."""

    images: np.ndarray
    scenes: list[dict[str, Any]]

    @classmethod
    def open(cls, folder: Path, seed: int, count: int, processes: int = 2) -> ImageCache:
        """Opens the cache of a seed's first `count` scenes. Draws the images first if the cache is not complete."""
        stem = folder / f"scenes-{seed}-{count}"
        array, lines = stem.with_suffix(".npy"), stem.with_suffix(".jsonl")
        if not lines.exists():
            folder.mkdir(parents=True, exist_ok=True)
            images = np.lib.format.open_memmap(array, mode="w+", dtype=np.uint8, shape=(count, SIDE, SIDE, 3))
            descriptions = []
            with ProcessPoolExecutor(processes) as pool:
                for index, (image, line) in enumerate(pool.map(_drawn, repeat(seed), range(count), chunksize=100)):
                    images[index] = image
                    descriptions.append(line)
            images.flush()
            # Last of all, because these lines say that the images are complete.
            aside = lines.with_suffix(".part")
            aside.write_text("\n".join(descriptions))
            aside.rename(lines)
        with lines.open() as text:
            return cls(np.load(array, mmap_mode="r"), [json.loads(line) for line in text])


def triplet(scene: dict[str, Any], relation: list[Any]) -> tuple[str, str, str]:
    """Returns a relation of a scene's description as (subject category, predicate, object category)."""
    subject, predicate, target = relation
    return scene["objects"][subject][0], predicate, scene["objects"][target][0]


def normalise(images: np.ndarray) -> Tensor:
    """Normalises (B, SIDE, SIDE, 3) uint8 to (B, 3, SIDE, SIDE) floats like BLIP's image processor."""
    like = BlipImageProcessor()
    mean, std = (torch.tensor(v)[:, None, None] * 255 for v in (like.image_mean, like.image_std))
    # A copy, because the array may be a map of a file that torch must not write to.
    return (torch.from_numpy(images.copy()).permute(0, 3, 1, 2).float() - mean) / std


class Feed:
    """Batches by step number. `batch(step)` is deterministic, so training can resume at any step."""

    def __init__(self, cache: ImageCache, seed: int, batch: int, captions: int) -> None:
        self.cache, self.seed, self.size, self.captions = cache, seed, batch, captions
        self.ids = {word: i for i, word in enumerate(words())}
        self.prompt = [DEC, *(self.ids[w] for w in PROMPT.split())]
        known = {triplet(scene, r) for scene in cache.scenes[:KNOWN_SCENES] for r in scene["relations"]}
        self.triplets = {t: i for i, t in enumerate(sorted(known))}
        self.part = {name: i for i, name in enumerate(PARTS)}

    def batch(self, step: int) -> dict[str, Tensor]:
        """Returns the input of `Learner.forward`. Mirrors images at random, which keeps all relations true."""
        count = len(self.cache.scenes)
        epoch, at = divmod(step, count // self.size)
        order = np.random.default_rng((self.seed, epoch)).permutation(count)
        # Sorted, so that the mapped file is read in its order
        chosen = np.sort(order[at * self.size : (at + 1) * self.size])
        rng = Random(f"{self.seed}/{step}")
        images = np.ascontiguousarray(self.cache.images[chosen])
        mirrored = [rng.random() < 0.5 for _ in chosen]
        for i, flip in enumerate(mirrored):
            if flip:
                images[i] = images[i][:, ::-1]
        scenes = [self.cache.scenes[i] for i in chosen]
        texts = self._captions(scenes, rng)
        parts = np.stack([self._parts(scene, flip) for scene, flip in zip(scenes, mirrored, strict=True)])
        relations = torch.zeros(self.size, len(self.triplets))
        for i, scene in enumerate(scenes):
            for relation in scene["relations"]:
                known = self.triplets.get(triplet(scene, relation))
                if known is not None:
                    relations[i, known] = 1.0
        return {"pixels": normalise(images), "parts": torch.from_numpy(parts), "relations": relations, **texts}

    def _captions(self, scenes: list[dict[str, Any]], rng: Random) -> dict[str, Tensor]:
        """Packs each image's captions into one row. A token attends to earlier tokens of its own caption only."""
        rows: list[tuple[list[int], list[int], list[int], list[int]]] = []
        for scene in scenes:
            tokens: list[int] = []
            targets: list[int] = []
            places: list[int] = []
            owner: list[int] = []
            things = [(category, noun, colour) for category, noun, colour, _ in scene["objects"]]
            facts = [(s, p, o) for s, p, o in scene["relations"]]
            for k in range(self.captions):
                text = [*self.prompt, *(self.ids[w] for w in caption(things, facts, rng, opening=False).split())]
                silent = len(self.prompt) - 1
                tokens += text
                targets += [-1] * silent + text[silent + 1 :] + [SEP]
                places += range(len(text))
                owner += [k] * len(text)
            rows.append((tokens, targets, places, owner))
        longest = max(len(row[0]) for row in rows)
        tokens_BL, targets_BL, places_BL, owner_BL = (
            torch.tensor([row[part] + [blank] * (longest - len(row[part])) for row in rows])
            for part, blank in enumerate((PAD, -1, 0, -1))
        )
        sees_BLL = (owner_BL[:, :, None] == owner_BL[:, None, :]) & torch.ones(longest, longest).tril().bool()
        mask = torch.zeros(sees_BLL.shape).masked_fill_(~sees_BLL, -1e4)[:, None]
        return {"tokens": tokens_BL, "targets": targets_BL, "places": places_BL, "mask": mask}

    def _parts(self, scene: dict[str, Any], mirrored: bool) -> np.ndarray:
        """Returns (GRID * GRID, parts): how much of each patch the boxes of each category and each role cover."""
        out = np.zeros((len(PARTS), GRID, GRID), dtype=np.float32)
        edges = np.arange(GRID)
        roles = [[o[0], *([o[1]] if o[1] in PEOPLE else [])] for o in scene["objects"]]
        for s, p, o in scene["relations"]:
            roles[s].append(f"{p} subject")
            roles[o].append(f"{p} object")
        for (_, _, _, (x, y, w, h)), names in zip(scene["objects"], roles, strict=True):
            x = 1 - x - w if mirrored else x
            across = np.clip(np.minimum(edges + 1, (x + w) * GRID) - np.maximum(edges, x * GRID), 0, 1)
            down = np.clip(np.minimum(edges + 1, (y + h) * GRID) - np.maximum(edges, y * GRID), 0, 1)
            # Boxes rarely fill the patches at their edges; the factor keeps small objects from being lost.
            cover = np.minimum(1.0, 1.5 * down[:, None] * across[None])
            for name in names:
                plane = out[self.part[name]]
                np.maximum(plane, cover, out=plane)
        return out.reshape(len(PARTS), -1).T


if __name__ == "__main__":
    typer.run(train)
