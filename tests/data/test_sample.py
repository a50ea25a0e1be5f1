"""The part of a dataset that a recipe takes: a seeded share, or the images on a list."""

import json
from pathlib import Path

import pytest
from data.toy_sets import save_json, save_picture

from pipeline.data.datasets.record_index import open_index
from pipeline.data.datasets.source import DataSource
from pipeline.data.partitioning import partition_dataset, selected_images
from pipeline.runtime.stage import Inputs
from pipeline.stages.ingest import IngestSettings, IngestStage
from storage.errors import FatalError
from storage.local_store import LocalStore

IMAGES = 40


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A COCO set of 40 images, the file of image 7 in a folder of its own."""
    names = {n: f"{'a/' if n == 7 else ''}COCO_{n:012d}.jpg" for n in range(1, IMAGES + 1)}
    for name in names.values():
        save_picture(tmp_path / "images" / name)
    images = [{"id": n, "file_name": name, "width": 100, "height": 80} for n, name in names.items()]
    save_json(tmp_path / "all.json", {"images": images, "annotations": [], "categories": []})
    return tmp_path


def source(folder: Path, **part) -> DataSource:
    return DataSource(name="toy", images=folder / "images", annotations=folder / "all.json", **part)


def taken(folder: Path, **part) -> tuple[int, ...]:
    chosen = source(folder, **part)
    return selected_images(chosen, open_index(chosen, folder / "indexes"))[0]


def test_a_share_is_stable_nested_and_of_its_size(folder):
    tenth, half = taken(folder, share=0.1), taken(folder, share=0.5)
    assert len(tenth) == 4 and len(half) == 20
    assert taken(folder, share=0.1) == tenth == (6, 14, 34, 38)  # the same on every machine and in every version
    assert set(tenth) <= set(half)
    assert taken(folder, share=0.1, seed=1) != tenth
    assert len(taken(folder, share=0.001)) == 1
    assert taken(folder) == tuple(range(1, IMAGES + 1))


def test_each_part_of_a_dataset_has_a_partition_map_of_its_own(folder):
    parts = [{}, {"share": 0.1}, {"share": 0.5}, {"share": 0.1, "seed": 1}]
    index = open_index(source(folder), folder / "indexes")
    assert len({selected_images(source(folder, **part), index)[1] for part in parts}) == len(parts)


def test_rows_without_a_record_do_not_count_in_a_part_of_the_dataset(folder):
    listed = json.loads((folder / "all.json").read_bytes())
    listed["images"] += [{"id": 900 + n, "file_name": f"../{n}.jpg", "width": 100, "height": 80} for n in range(5)]
    save_json(folder / "all.json", listed)
    for part, lost in (({}, 5), ({"share": 0.1}, 0)):
        stage = IngestStage(IngestSettings(sources=(source(folder, **part),), indexes=folder / "indexes"))
        (first,) = stage.partitions("toy", LocalStore(folder / "store"))
        made = stage.run(Inputs({}, first.name, first.image_ids), folder, lambda *_: None)
        assert (made.rows_in - len(first.image_ids), len(made.rejected)) == (lost, lost)


@pytest.mark.parametrize("written", [
    "# official list\n7\n12  # the second\n",
    "[7, 12, 12]",
    '[{"img_id": 7, "file_name": "x.jpg"}, {"file_name": "COCO_000000000012.jpg"}]',
    '{"images": [{"id": 107, "file_name": "a/COCO_000000000007.jpg"}, '
    '{"id": 112, "file_name": "COCO_000000000012.jpg"}]}',
])  # fmt: skip
def test_a_list_may_hold_ids_names_or_annotations(folder, written):
    (folder / "list").write_text(written)
    assert taken(folder, only=folder / "list") == (7, 12)


def test_a_list_of_other_images_or_of_none_is_refused(folder):
    path = folder / "list"
    path.write_text("7\n99\nHICO_train2015_00000123.jpg\n")
    with pytest.raises(FatalError, match=r"list: 2 of 3 entries are not images of dataset 'toy', e\.g\. line 2: '?99"):
        taken(folder, only=path)
    path.write_text("# nothing\n")
    with pytest.raises(FatalError, match="names no image of dataset 'toy'; expected image ids"):
        taken(folder, only=path)
    assert source(folder, only=folder / "gone").missing_files() == [f"only: no file {folder / 'gone'}"]
    with pytest.raises(ValueError, match="share: can't be combined with `only`"):
        source(folder, share=0.1, only=path)


def test_an_image_that_moved_to_another_subfolder_is_read_there(folder):
    def digests() -> list[str]:
        found = partition_dataset(source(folder), 20, folder / "indexes", "bytes", LocalStore(folder / "store"))
        return [each.digest for each in found]

    before = digests()
    (folder / "images/a").rename(folder / "images/b")
    annotations = folder / "all.json"
    annotations.write_text(annotations.read_text().replace('"a/', '"b/'))
    after = digests()
    assert after[0] != before[0] and after[1:] == before[1:]


def test_an_entry_that_may_mean_several_images_is_refused(tmp_path):
    names = {1: "0.jpg", 2: "1.jpg", 3: "a/x.jpg", 4: "b/x.jpg", 5: "x.jpg"}
    for name in names.values():
        save_picture(tmp_path / "images" / name)
    images = [{"id": n, "file_name": name, "width": 100, "height": 80} for n, name in names.items()]
    save_json(tmp_path / "all.json", {"images": images, "annotations": [], "categories": []})
    path = tmp_path / "list"
    for written, ids in (("[1, 2]", (1, 2)), ("0.jpg\n", (1,)), ("x.jpg\nb/x.jpg", (4, 5))):
        path.write_text(written)
        assert taken(tmp_path, only=path) == ids
    path.write_text("a/x.jpg\nIMG_2.jpg\n")  # image 2 is another file
    with pytest.raises(FatalError, match=r"1 of 2 entries are not images of dataset 'toy', e\.g\. line 2: IMG_2"):
        taken(tmp_path, only=path)
    for written, count in (("2\n1\n", 2), ("x\n", 3), ("c/x.jpg\n", 3)):
        path.write_text(written)
        with pytest.raises(FatalError, match=rf"line \d may be any of {count} images of dataset 'toy'"):
            taken(tmp_path, only=path)


def test_partitions_hold_the_part_alone_and_those_of_the_whole_set_stay(folder):
    store = LocalStore(folder / "store")

    def partitions(**part) -> list[tuple[str, tuple[int, ...], str]]:
        found = partition_dataset(source(folder, **part), 16, folder / "indexes", "bytes", store)
        return [(each.name, each.image_ids, each.digest) for each in found]

    whole = partitions()
    part = partitions(share=0.1)
    assert [ids for _, ids, _ in part] == [(6, 14, 34, 38)]
    assert partitions() == whole and [len(ids) for _, ids, _ in whole] == [16, 16, 8]
    (folder / "list").write_text("1\n2\n")
    assert [ids for _, ids, _ in partitions(only=folder / "list")] == [(1, 2)]
    (folder / "list").write_text("2\n3\n")
    assert [ids for _, ids, _ in partitions(only=folder / "list")] == [(2, 3)]
