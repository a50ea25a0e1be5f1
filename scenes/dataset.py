"""Writes a dataset of synthetic scenes aside and renames it, so that a folder with a stamp is complete."""

import json
import multiprocessing
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from scenes import acts
from scenes.layouts import Written, captions, hico_det, instances, objects365, pairs, visual_genome
from scenes.names import COCO_CATEGORIES, PREDICATES
from scenes.scene import render
from scenes.settings import SceneSettings
from scenes.world import make_scene

LAYOUT = 1
"""Increased when the same settings would give other bytes."""
PARTS = {"coco": 1, "objects365": 2, "vg": 3, "hico": 4}
CHUNK = 25
PATCH = 500
"""Images per patch folder of Objects365."""

Progress = Callable[[int, int], None]


class SceneFolders:
    """The files of a written dataset. Those of a part exist only if it has images."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.stamp = root / "scenes.json"
        """The dataset's settings. The file exists only once the dataset is complete."""
        self.coco_images = root / "coco" / "train"
        self.coco_instances = root / "coco" / "annotations" / "instances_train.json"
        self.coco_captions = root / "coco" / "annotations" / "captions_train.json"
        self.coco_relations = root / "coco" / "annotations" / "relations_train.json"
        """Planted relations as pairs of boxes."""
        self.objects365_images = root / "objects365" / "train"
        self.objects365_instances = root / "objects365" / "zhiyuan_objv2_train.json"
        """Boxes and categories, under Objects365's own file name."""
        self.objects365_relations = root / "objects365" / "relations_train.json"
        self.vg_images = root / "vg" / "images"
        self.vg_relationships = root / "vg" / "relationships.json"
        self.vg_objects = root / "vg" / "objects.json"
        """All objects, including those without a relation."""
        self.vg_image_data = root / "vg" / "image_data.json"
        self.hico_images = root / "hico" / "images"
        self.hico_test = root / "hico" / "test.json"
        self.hico_verbs = root / "hico" / "verbs.json"
        """List of verb names, whose ids count from 1."""
        self.hico_objects = root / "hico" / "objects.json"
        """Object name → id."""


def part_seed(settings: SceneSettings, part: str) -> int:
    """Returns the seed of a part's scenes. It is never a multiple of ten, unlike the captioner's training seeds."""
    return settings.seed * 10 + PARTS[part]


def write_scenes(root: Path, settings: SceneSettings, progress: Progress | None = None) -> SceneFolders:
    """Writes the dataset to `root`, unless it is there with the same settings. `progress` gets (images done, total).

    Raises FileExistsError if `root` holds anything but a dataset of scenes, OSError if it cannot be written.
    """
    folders = SceneFolders(root)
    stamp = json.dumps({"layout": LAYOUT, "settings": settings.content()}, indent=1, sort_keys=True)
    if folders.stamp.is_file():
        if folders.stamp.read_text() == stamp:
            return folders
    elif root.exists() and any(root.iterdir()):
        raise FileExistsError(f"{root}: not empty and not a dataset of scenes; choose another folder or empty this one")
    aside = root.parent / f".{root.name}.{os.getpid()}.part"
    shutil.rmtree(aside, ignore_errors=True)
    try:
        _write(SceneFolders(aside), settings, progress)
        SceneFolders(aside).stamp.write_text(stamp)
        if root.exists():
            shutil.rmtree(root)
        aside.rename(root)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folders


def _write(at: SceneFolders, settings: SceneSettings, progress: Progress | None) -> None:
    s = settings
    counts = {"coco": s.train, "objects365": s.objects365, "vg": s.relations, "hico": s.test}
    images_at = {"coco": at.coco_images, "objects365": at.objects365_images, "vg": at.vg_images, "hico": at.hico_images}
    total, done = sum(counts.values()), 0
    written: dict[str, list[Written]] = {part: [] for part in counts}
    # Spawned, not forked, because the caller may have threads and locks.
    with ProcessPoolExecutor(settings.processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        jobs = []
        for part, count in counts.items():
            for start in range(0, count, CHUNK):
                stop = min(start + CHUNK, count)
                seed = part_seed(settings, part)
                jobs.append((part, pool.submit(_draw, part, images_at[part], seed, start, stop, settings)))
        for part, job in jobs:
            chunk = job.result()
            written[part] += chunk
            done += len(chunk)
            if progress is not None:
                progress(done, total)
    _dump(at.coco_instances, instances(written["coco"]))
    _dump(at.coco_captions, captions(written["coco"], settings.seed))
    _dump(at.coco_relations, pairs(written["coco"]))
    if written["objects365"]:
        _dump(at.objects365_instances, objects365(written["objects365"]))
        _dump(at.objects365_relations, pairs(written["objects365"]))
    if written["vg"]:
        files = visual_genome(written["vg"], settings.seed)
        _dump(at.vg_relationships, files["relationships"])
        _dump(at.vg_objects, files["objects"])
        _dump(at.vg_image_data, files["image_data"])
    if written["hico"]:
        predicates = PREDICATES if settings.world == 1 else acts.predicates()
        _dump(at.hico_test, hico_det(written["hico"], predicates))
        _dump(at.hico_verbs, list(predicates))
        _dump(at.hico_objects, COCO_CATEGORIES)


def _draw(part: str, folder: Path, seed: int, start: int, stop: int, settings: SceneSettings) -> list[Written]:
    """Draws and saves the scenes from `start` up to, but not including, `stop` of a part."""
    out = []
    own = (acts.any_group if part == "hico" else acts.seen_group,) if settings.world == 2 else ()
    for index in range(start, stop):
        scene = make_scene(seed, index, *own)
        name = _file_name(part, index + 1)
        path = folder / (f"patch{index // PATCH}/{name}" if part == "objects365" else name)
        path.parent.mkdir(parents=True, exist_ok=True)
        render(scene).save(path, "JPEG", quality=settings.quality)
        listed = f"images/v1/{path.parent.name}/{name}" if part == "objects365" else name
        out.append(Written.of(scene, index + 1, listed))
    return out


def _file_name(part: str, image_id: int) -> str:
    return {
        "coco": f"{image_id:012d}.jpg",
        "objects365": f"objects365_v1_{image_id:08d}.jpg",
        "vg": f"{image_id}.jpg",
        "hico": f"HICO_test2015_{image_id:08d}.jpg",
    }[part]


def _dump(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, sort_keys=True) + "\n")
