"""Written sets are readable by the tools of each format, reproducible byte for byte, and never incomplete."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from scenes.dataset import PARTS, SceneFolders, part_seed, write_scenes
from scenes.settings import SceneSettings
from scenes.world import make_scene

SMALL = SceneSettings(seed=4, train=16, objects365=4, relations=8, test=5)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> SceneFolders:
    return write_scenes(tmp_path_factory.mktemp("written") / "set", SMALL)


def digests(root: Path) -> dict[str, str]:
    files = [path for path in sorted(root.rglob("*")) if path.is_file()]
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_pycocotools_reads_instances_and_captions(written):
    coco = pytest.importorskip("pycocotools.coco")
    boxes = coco.COCO(str(written.coco_instances))
    assert len(boxes.getImgIds()) == SMALL.train
    assert len(boxes.loadCats(boxes.getCatIds())) == 80
    scene = make_scene(part_seed(SMALL, "coco"), 0)
    annotations = boxes.loadAnns(boxes.getAnnIds(imgIds=[1]))
    assert [tuple(a["bbox"]) for a in annotations] == [o.box for o in scene.objects]
    assert [boxes.cats[a["category_id"]]["name"] for a in annotations] == [o.category for o in scene.objects]
    captions = coco.COCO(str(written.coco_captions))
    assert len(captions.getAnnIds()) == 5 * SMALL.train


def test_images_are_there_at_their_size(written):
    for entry in json.loads(written.coco_instances.read_text())["images"]:
        with Image.open(written.coco_images / entry["file_name"]) as image:
            assert image.format == "JPEG" and image.size == (entry["width"], entry["height"])
    for entry in json.loads(written.hico_test.read_text()):
        assert (written.hico_images / entry["file_name"]).is_file()
    for entry in json.loads(written.objects365_instances.read_text())["images"]:
        assert (written.objects365_images / "/".join(entry["file_name"].split("/")[-2:])).is_file()
    for entry in json.loads(written.vg_image_data.read_text()):
        assert (written.vg_images / f"{entry['image_id']}.jpg").is_file()


def test_hico_pairs_are_the_planted_ones(written):
    verbs = json.loads(written.hico_verbs.read_text())
    for entry in json.loads(written.hico_test.read_text()):
        scene = make_scene(part_seed(SMALL, "hico"), entry["img_id"] - 1)
        stated = {(h["subject_id"], verbs[h["category_id"] - 1], h["object_id"]) for h in entry["hoi_annotation"]}
        assert {(r.subject, r.predicate, r.object) for r in scene.relations} <= stated
        for box, thing in zip(entry["annotations"], scene.objects, strict=True):
            x, y, w, h = thing.box
            assert box["bbox"] == [x, y, x + w, y + h]


def test_visual_genome_ids_point_at_objects(written):
    objects = {
        item["object_id"]: (image["image_id"], item)
        for image in json.loads(written.vg_objects.read_text())
        for item in image["objects"]
    }
    count = 0
    for image in json.loads(written.vg_relationships.read_text()):
        for relation in image["relationships"]:
            for end in (relation["subject"], relation["object"]):
                image_id, item = objects[end["object_id"]]
                assert image_id == image["image_id"] and item["names"] == [end["name"]]
                count += 1
    assert count > 0


def test_parts_share_no_scene():
    seeds = {part_seed(SceneSettings(seed=seed), part) for seed in range(200) for part in PARTS}
    assert len(seeds) == 200 * len(PARTS)
    assert not any(seed % 10 == 0 for seed in seeds)


def test_same_settings_same_bytes_and_no_second_writing(written, tmp_path):
    again = write_scenes(tmp_path / "set", SMALL.model_copy(update={"processes": 1}))
    assert digests(again.root) == digests(written.root)
    before = again.stamp.stat().st_mtime_ns
    calls: list[tuple[int, int]] = []
    write_scenes(again.root, SMALL, lambda done, total: calls.append((done, total)))
    assert again.stamp.stat().st_mtime_ns == before and calls == []


def test_more_images_keep_the_old_ones(tmp_path):
    small = SceneSettings(seed=4, train=4, relations=0, test=0)
    folders = write_scenes(tmp_path / "set", small)
    before = digests(folders.coco_images)
    write_scenes(folders.root, small.model_copy(update={"train": 7}))
    after = digests(folders.coco_images)
    assert len(after) == 7 and before.items() <= after.items()


def test_a_dataset_that_another_process_finished_first_stays(written, tmp_path):
    root, faster = tmp_path / "set", shutil.copytree(written.root, tmp_path / "faster")
    kept = faster.stat().st_ino
    write_scenes(root, SMALL, lambda done, total: None if root.exists() else faster.rename(root))
    assert root.stat().st_ino == kept and [path.name for path in tmp_path.iterdir()] == ["set"]


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "precious.txt").write_text("keep")
    with pytest.raises(FileExistsError, match="not empty"):
        write_scenes(tmp_path, SMALL)
    assert (tmp_path / "precious.txt").read_text() == "keep"
