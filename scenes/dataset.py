"""Writes a dataset of synthetic scenes in the layouts of COCO, Objects365, HICO-DET and Visual Genome.

It is written aside and renamed, so that a folder with a stamp is complete.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from scenes import acts
from scenes.grammar import caption
from scenes.names import ANIMALS, COCO_CATEGORIES, FURNITURE, PREDICATES, SYMMETRIC, VEHICLES
from scenes.scene import Scene, render
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

    def is_written() -> bool:
        return folders.stamp.is_file() and folders.stamp.read_text() == stamp

    if is_written():
        return folders
    if not folders.stamp.is_file() and root.exists() and any(root.iterdir()):
        raise FileExistsError(f"{root}: is neither empty nor a dataset of scenes")
    if root.resolve() == Path.cwd() or root.is_mount():
        raise FileExistsError(f"{root}: is the current folder or a mount point, which a dataset can't replace")
    aside, before = (root.parent / f".{root.name}.{os.getpid()}.{kind}" for kind in ("part", "before"))
    for left in (aside, before):  # by a killed process of the same number
        shutil.rmtree(left, ignore_errors=True)
    try:
        _write(SceneFolders(aside), settings, progress)
        SceneFolders(aside).stamp.write_text(stamp)
        try:
            aside.rename(root)
        except OSError:
            # It replaces a dataset of other settings, but not one that another process has written in the meantime.
            if not is_written():
                root.rename(before)  # a folder that is removed in part would look like one that is not ours
                aside.rename(root)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        shutil.rmtree(before, ignore_errors=True)
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


Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Written:
    """One image that is saved on disk. Boxes are (x, y, width, height) in pixels."""

    image_id: int
    file_name: str
    width: int
    height: int
    things: tuple[tuple[str, str, str], ...]
    """(category, noun, colour) of each object."""
    boxes: tuple[Box, ...]
    facts: tuple[tuple[int, str, int], ...]
    """Planted relations as (subject index, predicate, object index), once each."""

    @classmethod
    def of(cls, scene: Scene, image_id: int, file_name: str) -> Written:
        """Extracts the data of a scene."""
        return cls(
            image_id,
            file_name,
            scene.width,
            scene.height,
            tuple((o.category, o.noun, o.colour) for o in scene.objects),
            tuple(o.box for o in scene.objects),
            tuple((r.subject, r.predicate, r.object) for r in scene.relations),
        )

    def all_facts(self) -> list[tuple[int, str, int]]:
        """Returns the planted relations, symmetric ones in both orders."""
        reversed_facts = [(target, predicate, subject) for subject, predicate, target in self.facts]
        both = zip(self.facts, reversed_facts, strict=True)
        return [fact for pair in both for fact in (pair if pair[0][1] in SYMMETRIC else pair[:1])]


CAPTIONS = 5
INFO = {"description": "Made scenes with planted relations", "version": "1.0"}
SUPER = {
    **dict.fromkeys(ANIMALS, "animal"),
    **dict.fromkeys(VEHICLES, "vehicle"),
    **dict.fromkeys(FURNITURE, "furniture"),
}
SURFACES: dict[str, tuple[str, ...]] = {
    "riding": ("riding", "riding", "rides", "is riding"),
    "holding": ("holding", "holding", "holds", "is holding"),
    "carrying": ("carrying", "carrying", "carries"),
    "wearing": ("wearing", "wearing", "wears"),
    "sitting on": ("sitting on", "sitting on", "sits on", "seated on"),
    "lying on": ("lying on", "lying on", "lies on"),
    "next to": ("next to", "next to", "beside", "standing next to"),
    "behind": ("behind", "behind", "standing behind"),
    "under": ("under", "under", "underneath", "beneath"),
    "on": ("on", "on", "on top of"),
    "looking at": ("looking at", "looking at", "looks at"),
    "walking": ("walking", "walking", "walks"),
    "kicking": ("kicking", "kicking", "kicks"),
    "eating": ("eating", "eating", "eats"),
}
"""Planted predicate → wordings of annotators. Those of the second world have one wording: their own."""
PARTICULAR = 0.25
"""Share of people that are named man, woman, boy or girl."""


def instances(images: Sequence[Written]) -> dict[str, Any]:
    """Returns COCO's instances. Segmentation and area are those of the bounding box."""
    annotations: list[dict[str, Any]] = []
    for image in images:
        for (category, _, _), (x, y, w, h) in zip(image.things, image.boxes, strict=True):
            annotations.append({
                "id": len(annotations) + 1,
                "image_id": image.image_id,
                "category_id": COCO_CATEGORIES[category],
                "bbox": [x, y, w, h],
                "area": w * h,
                "iscrowd": 0,
                "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
            })  # fmt: skip
    return {
        "info": INFO,
        "licenses": [],
        "images": [{"id": i.image_id, "file_name": i.file_name, "width": i.width, "height": i.height} for i in images],
        "annotations": annotations,
        "categories": [
            {"id": number, "name": name, "supercategory": "person" if name == "person" else SUPER.get(name, "thing")}
            for name, number in COCO_CATEGORIES.items()
        ],
    }


def objects365(images: Sequence[Written]) -> dict[str, Any]:
    """Returns Objects365's layout: capitalised names, consecutive ids from 1, the flags isfake and isreflected."""
    numbers = {name: i for i, name in enumerate(COCO_CATEGORIES, start=1)}
    content = instances(images)
    by_id = {number: name for name, number in COCO_CATEGORIES.items()}
    for annotation in content["annotations"]:
        annotation["category_id"] = numbers[by_id[annotation["category_id"]]]
        annotation |= {"isfake": 0, "isreflected": 0}
        del annotation["segmentation"]
    content["categories"] = [{"id": number, "name": name.title()} for name, number in numbers.items()]
    return content


def pairs(images: Sequence[Written]) -> list[dict[str, Any]]:
    """Lists {image_id, relations: [{subject, subject_box, predicate, object, object_box}]}; boxes: [x1, y1, x2, y2]."""
    out = []
    for image in images:
        corners = [[x, y, x + w, y + h] for x, y, w, h in image.boxes]
        relations = [
            {
                "subject": image.things[s][0], "subject_box": corners[s], "predicate": predicate,
                "object": image.things[o][0], "object_box": corners[o],
            }
            for s, predicate, o in image.all_facts()
        ]  # fmt: skip
        out.append({"image_id": image.image_id, "relations": relations})
    return out


def captions(images: Sequence[Written], seed: int) -> dict[str, Any]:
    """Returns COCO's captions, five per image, all true. They depend on the seed, the image's id and its scene only."""
    annotations: list[dict[str, Any]] = []
    for image in images:
        rng = Random(f"captions/{seed}/{image.image_id}")
        for _ in range(CAPTIONS):
            text = caption(image.things, image.facts, rng)
            annotations.append({"id": len(annotations) + 1, "image_id": image.image_id, "caption": text})
    listed = [{"id": image.image_id, "file_name": image.file_name} for image in images]
    return {"info": INFO, "images": listed, "annotations": annotations}


def hico_det(images: Sequence[Written], predicates: Sequence[str]) -> list[dict[str, Any]]:
    """Returns HICO-DET's ground truth in the layout of RLIPv2's authors, with subjects of any category.

    It is a list of images: {file_name, img_id, width, height, annotations: [{bbox: [x1, y1, x2, y2], category_id}],
    hoi_annotation: [{subject_id, object_id, category_id}]}. subject_id and object_id index an image's annotations from
    0. The category_id of a box is COCO's, that of a relation is an index into `predicates` from 1. All planted
    relations are listed, symmetric ones in both orders.
    """
    verbs = {name: i for i, name in enumerate(predicates, start=1)}
    out = []
    for image in images:
        boxes = [
            {"bbox": [x, y, x + w, y + h], "category_id": COCO_CATEGORIES[category]}
            for (category, _, _), (x, y, w, h) in zip(image.things, image.boxes, strict=True)
        ]
        relations = [{"subject_id": s, "object_id": o, "category_id": verbs[p]} for s, p, o in image.all_facts()]
        out.append({
            "file_name": image.file_name, "img_id": image.image_id, "width": image.width, "height": image.height,
            "annotations": boxes, "hoi_annotation": relations,
        })  # fmt: skip
    return out


def visual_genome(images: Sequence[Written], seed: int) -> dict[str, list[dict[str, Any]]]:
    """Returns Visual Genome's relationships, objects and image_data by name, in wording that varies like annotators'.

    Object and relationship ids are unique over all images.
    """
    relationships, objects, image_data = [], [], []
    object_id = relationship_id = 0
    for image in images:
        rng = Random(f"vg/{seed}/{image.image_id}")
        listed = []
        for (category, noun, _), (x, y, w, h) in zip(image.things, image.boxes, strict=True):
            object_id += 1
            name = noun if rng.random() < PARTICULAR else category
            listed.append({"object_id": object_id, "x": x, "y": y, "w": w, "h": h, "names": [name], "synsets": []})
        stated = []
        for s, predicate, o in image.all_facts():
            relationship_id += 1
            wording = rng.choice(SURFACES.get(predicate, (predicate,)))
            stated.append({
                "relationship_id": relationship_id, "predicate": wording, "synsets": [],
                "subject": _named(listed[s]), "object": _named(listed[o]),
            })  # fmt: skip
        relationships.append({"image_id": image.image_id, "relationships": stated})
        objects.append({"image_id": image.image_id, "objects": listed})
        image_data.append({"image_id": image.image_id, "width": image.width, "height": image.height})
    return {"relationships": relationships, "objects": objects, "image_data": image_data}


def _named(item: dict[str, Any]) -> dict[str, Any]:
    """Converts an object entry to the end of a relationship, which has one name instead of a list."""
    return {"name": item["names"][0], **{k: v for k, v in item.items() if k != "names"}}
