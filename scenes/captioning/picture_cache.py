"""Caches training images as a memory-mapped array of small images, with one JSON line per scene."""

import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from scenes.draw import render
from scenes.scene import Scene
from scenes.world import make_scene

SIDE = 160
"""Pictures are resized to SIDE x SIDE pixels, bicubic, like in the captioner's image processor."""
CHUNK = 500


def render_small(scene: Scene) -> np.ndarray:
    """Renders a scene as (SIDE, SIDE, 3) uint8."""
    return np.asarray(render(scene).resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def description(scene: Scene) -> dict[str, Any]:
    """Describes a scene for captions and training targets. Boxes are shares of the picture's width and height."""
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
    pictures = np.load(path, mmap_mode="r+")
    lines = []
    for i in range(start, stop):
        scene = make_scene(seed, i)
        pictures[i] = render_small(scene)
        lines.append(json.dumps(description(scene)))
    pictures.flush()
    return lines


@dataclass(frozen=True)
class PictureCache:
    """`pictures` is (scenes, SIDE, SIDE, 3) uint8, memory-mapped; `scenes` holds each scene's description."""

    pictures: np.ndarray
    scenes: list[dict[str, Any]]

    @classmethod
    def open(cls, folder: Path, seed: int, count: int, processes: int = 2) -> "PictureCache":
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
