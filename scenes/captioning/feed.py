"""Training data: scenes as small images in a memory-mapped cache, and batches with newly generated captions."""

import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import BlipImageProcessor

from scenes.captioning.model import DEC, GRID, PAD, PROMPT, SEP, SIDE, words
from scenes.grammar import caption
from scenes.names import PEOPLE, PREDICATES, WORLD_CATEGORIES
from scenes.scene import Scene, render
from scenes.world import make_scene

CHUNK = 500
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
        "seed": scene.seed,
        "index": scene.index,
        "objects": [
            [o.category, o.noun, o.colour, [round(v / side, 4) for v, side in zip(o.box, (w, h, w, h), strict=True)]]
            for o in scene.objects
        ],
        "relations": [[r.subject, r.predicate, r.object] for r in scene.relations],
    }


def _fill(path: str, seed: int, start: int, stop: int) -> list[str]:
    images = np.load(path, mmap_mode="r+")
    lines = []
    for i in range(start, stop):
        scene = make_scene(seed, i)
        images[i] = render_small(scene)
        lines.append(json.dumps(description(scene)))
    images.flush()
    return lines


@dataclass(frozen=True)
class ImageCache:
    """`images` is (scenes, SIDE, SIDE, 3) uint8, memory-mapped; `scenes` holds each scene's description."""

    images: np.ndarray
    scenes: list[dict[str, Any]]

    @classmethod
    def open(cls, folder: Path, seed: int, count: int, processes: int = 2) -> "ImageCache":
        """Opens the cache of a seed's first `count` scenes. Draws the images first if the cache does not exist."""
        stem = folder / f"scenes-{seed}-{count}"
        array, lines = stem.with_suffix(".npy"), stem.with_suffix(".jsonl")
        if not lines.exists():
            folder.mkdir(parents=True, exist_ok=True)
            _draw(array, lines, seed, count, processes)
        with lines.open() as text:
            return cls(np.load(array, mmap_mode="r"), [json.loads(line) for line in text])


def _draw(array: Path, lines: Path, seed: int, count: int, processes: int) -> None:
    """Draws the images. Resumes after the last complete chunk of an interrupted run."""
    aside = lines.with_suffix(".part")
    done = aside.read_text().splitlines() if aside.exists() and array.exists() else []
    done = done[: len(done) // CHUNK * CHUNK]
    if not done:
        np.lib.format.open_memmap(array, mode="w+", dtype=np.uint8, shape=(count, SIDE, SIDE, 3)).flush()
    with aside.open("w") as out, ProcessPoolExecutor(processes) as pool:
        out.writelines(line + "\n" for line in done)
        starts = range(len(done), count, CHUNK)
        jobs = [pool.submit(_fill, str(array), seed, s, min(s + CHUNK, count)) for s in starts]
        for job in jobs:
            out.writelines(line + "\n" for line in job.result())
            out.flush()
    aside.rename(lines)


def triplet(scene: dict[str, Any], relation: list[Any]) -> tuple[str, str, str]:
    """Returns a relation of a scene's description as (subject category, predicate, object category)."""
    subject, predicate, target = relation
    return scene["objects"][subject][0], predicate, scene["objects"][target][0]


def normalise(images: np.ndarray) -> Tensor:
    """Normalises (B, SIDE, SIDE, 3) uint8 to (B, 3, SIDE, SIDE) floats like BLIP's image processor."""
    like = BlipImageProcessor()
    mean, std = (torch.tensor(v)[:, None, None] * 255 for v in (like.image_mean, like.image_std))
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
        return {
            "pixels": normalise(images),
            "parts": torch.from_numpy(parts),
            "relations": relations,
            **texts,
        }

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
