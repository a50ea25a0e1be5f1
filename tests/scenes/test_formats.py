"""Written sets are readable by the tools of each format, reproducible byte for byte, and never incomplete."""

import json
import shutil
from pathlib import Path

import pytest

from pipeline.data.datasets.source import DataSource
from scenes.dataset import PARTS, SceneFolders, part_seed, write_scenes
from scenes.settings import SceneSettings
from scenes.world import make_scene
from tests.data.toy_sets import checked, read_all

SMALL = SceneSettings(seed=4, train=16, objects365=4, relations=8, test=5)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> SceneFolders:
    return write_scenes(tmp_path_factory.mktemp("written") / "set", SMALL)


def files_in(root: Path) -> dict[Path, bytes]:
    return {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}


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


def test_hico_pairs_are_the_planted_ones(written):
    verbs = json.loads(written.hico_verbs.read_text())
    for entry in json.loads(written.hico_test.read_text()):
        scene = make_scene(part_seed(SMALL, "hico"), entry["img_id"] - 1)
        stated = {(h["subject_id"], verbs[h["category_id"] - 1], h["object_id"]) for h in entry["hoi_annotation"]}
        assert {(r.subject, r.predicate, r.object) for r in scene.relations} <= stated
        for box, thing in zip(entry["annotations"], scene.objects, strict=True):
            x, y, w, h = thing.box
            assert box["bbox"] == [x, y, x + w, y + h]


def test_parts_share_no_scene():
    seeds = {part_seed(SceneSettings(seed=seed), part) for seed in range(200) for part in PARTS}
    assert len(seeds) == 200 * len(PARTS)
    assert not any(seed % 10 == 0 for seed in seeds)


def test_same_settings_same_bytes_and_no_second_writing(written, tmp_path):
    again = write_scenes(tmp_path / "set", SMALL.model_copy(update={"processes": 1}))
    assert files_in(again.root) == files_in(written.root)
    before = again.stamp.stat().st_mtime_ns
    calls: list[tuple[int, int]] = []
    write_scenes(again.root, SMALL, lambda done, total: calls.append((done, total)))
    assert again.stamp.stat().st_mtime_ns == before and calls == []


def test_a_folder_that_can_not_be_replaced_is_refused_before_anything_is_drawn(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileExistsError, match="is the current folder"):
        write_scenes(Path(), SMALL)
    assert not list(tmp_path.iterdir())


def test_more_images_keep_the_old_ones(tmp_path):
    small = SceneSettings(seed=4, train=4, relations=0, test=0)
    folders = write_scenes(tmp_path / "set", small)
    before = files_in(folders.coco_images)
    write_scenes(folders.root, small.model_copy(update={"train": 7}))
    after = files_in(folders.coco_images)
    assert len(after) == 7 and before.items() <= after.items()


def test_a_process_killed_while_it_removes_the_old_dataset_leaves_a_new_one(tmp_path, monkeypatch):
    def killed(folder: Path, ignore_errors: bool = False) -> None:
        if SceneFolders(folder).stamp.is_file():
            SceneFolders(folder).stamp.unlink()
            raise KeyboardInterrupt

    small = SceneSettings(seed=4, train=1, relations=0, test=0)
    root, more = write_scenes(tmp_path / "set", small).root, small.model_copy(update={"train": 2})
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(shutil, "rmtree", killed)
        write_scenes(root, more)
    assert len(list(write_scenes(root, more).coco_images.iterdir())) == 2


def test_a_dataset_that_another_process_finished_first_stays(written, tmp_path):
    root, faster = tmp_path / "set", shutil.copytree(written.root, tmp_path / "faster")
    kept = faster.stat().st_ino
    write_scenes(root, SMALL, lambda done, total: None if root.exists() else faster.rename(root))
    assert root.stat().st_ino == kept and [path.name for path in tmp_path.iterdir()] == ["set"]


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "precious.txt").write_text("keep")
    with pytest.raises(FileExistsError, match="neither empty nor a dataset"):
        write_scenes(tmp_path, SMALL)
    assert (tmp_path / "precious.txt").read_text() == "keep"


SETS = {
    "coco": ("coco_images", "coco_instances", {"relations": "coco_relations"}, "coco_relations", "relations"),
    "objects365": (
        "objects365_images", "objects365_instances", {"relations": "objects365_relations"}, "objects365_relations",
        "relations",
    ),
    "visual_genome": (
        "vg_images", "vg_relationships", {"image_data": "vg_image_data", "objects": "vg_objects"}, "vg_relationships",
        "relationships",
    ),
    "hico_det": (
        "hico_images", "hico_test", {"verbs": "hico_verbs", "objects": "hico_objects"}, "hico_test", "hoi_annotation",
    ),
}  # fmt: skip
"""Format → the folder of images, the annotations, further files, and the file and field with the relations."""


@pytest.mark.parametrize("format_name", SETS)
def test_no_planted_relation_gets_lost_in_our_readers(written, format_name):
    images, annotations, more, stating, field = SETS[format_name]
    files = {"images": images, "annotations": annotations, **more}
    places = {setting: getattr(written, name) for setting, name in files.items()}
    reader, found = read_all(DataSource(name="made", format=format_name, split="test", **places))
    records, rejects = zip(*map(checked, found), strict=True)
    assert all(records) and not any(rejects) and not reader.rejects
    stated = [image[field] for image in json.loads(getattr(written, stating).read_text())]
    assert [len(record.relations) for record in records] == [len(each) for each in stated]
    if "relations" in more:
        named = [[record.boxes[end].category for each in record.relations for end in each[::2]] for record in records]
        assert named == [[each[end] for each in relations for end in ("subject", "object")] for relations in stated]
        assert [[each.predicate for each in record.relations] for record in records] == [
            [each["predicate"] for each in relations] for relations in stated
        ]
        assert all(box.source_id > 0 for record in records for box in record.boxes)
    if format_name == "visual_genome":
        objects = json.loads(written.vg_objects.read_text())
        assert [len(record.boxes) for record in records] == [len(image["objects"]) for image in objects]
        for image, relations in zip(objects, stated, strict=True):
            named = {each["object_id"]: each["names"] for each in image["objects"]}
            ends = [relation[end] for relation in relations for end in ("subject", "object")]
            assert all(named[end["object_id"]] == [end["name"]] for end in ends)
