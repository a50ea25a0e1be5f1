"""Validates records against their image files: boxes, sizes, relations; and tests fingerprints."""

import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image

from pipeline.data.datasets.record import AnnotatedRelation, Box, ImageRecord
from pipeline.data.images.opening import BadImage, ImageLimits, fingerprint
from tests.data.toy_sets import checked, save_picture


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A 100 x 80 image."""
    return save_picture(tmp_path_factory.mktemp("pictures") / "a.jpg")


def record(path: Path, *boxes: Box, relations: tuple[AnnotatedRelation, ...] = (), **more: int | None) -> ImageRecord:
    return ImageRecord("toy", "train", 7, path, boxes=boxes, relations=relations, **more)


def reasons(found: list) -> list[str]:  # type: ignore[type-arg]
    return [reject.reason for reject in found]


@pytest.mark.parametrize("box, reason", [
    (Box("dog", 10, 10, -5, 5), "box inverted"), (Box("dog", 10, 10, 5, -5), "box inverted"),
    (Box("dog", 10, 10, 0, 5), "box empty"), (Box("dog", 100, 10, 5, 5), "box outside"),
    (Box("dog", -20, 10, 20, 5), "box outside"), (Box("dog", 10, 300, 5, 5), "box outside"),
    (Box("dog", float("nan"), 10, 5, 5), "box not finite"), (Box("dog", 1, 10, float("inf"), 5), "box not finite"),
    (Box("dog", 10, 10, 1e-60, 5), "box empty"), (Box("dog", 1e300, 10, 1e300, 5), "box outside"),
])  # fmt: skip
def test_boxes_that_can_not_be_used(picture, box, reason):
    kept = Box("dog", 1, 1, 5, 5)
    found, rejects = checked(record(picture, box, kept))
    assert found is not None and found.boxes == (kept,)
    assert reasons(rejects) == [reason]
    assert rejects[0].image_id == 7 and rejects[0].value.startswith("dog [")


def test_boxes_are_clipped_and_only_what_matters_is_noted(picture):
    found, rejects = checked(record(picture, Box("dog", -10, 70, 30, 30), Box("cat", 50, 40, 50.4, 40.2)))
    assert found is not None
    assert found.boxes == (Box("dog", 0, 70, 20, 10), Box("cat", 50, 40, 50, 40))
    assert reasons(rejects) == ["box clipped"]
    assert rejects[0].value == "dog [-10, 70, 30, 30] in 100x80"


def test_relations_follow_their_boxes(picture):
    boxes = (
        Box("a", 0, 0, 0, 5), Box("a", 1, 1, 5, 5), Box("b", 2, 2, 5, 5), Box("a", 1, 1, 5, 5), Box("b", 1, 1, 5, 5),
    )  # fmt: skip
    relations = (
        AnnotatedRelation(0, "on", 2), AnnotatedRelation(1, "on", 2), AnnotatedRelation(3, "on", 2),
        AnnotatedRelation(1, "near", 3), AnnotatedRelation(4, "in", 3),
    )  # fmt: skip
    found, rejects = checked(record(picture, *boxes, relations=relations))
    assert found is not None
    assert [box.category for box in found.boxes] == ["a", "b", "b"]
    assert found.relations == (AnnotatedRelation(0, "on", 1), AnnotatedRelation(2, "in", 0))
    assert sorted(reasons(rejects)) == sorted(
        ["box empty", "box duplicate", "relation without box", "relation duplicate", "relation to itself"]
    )


def test_the_files_size_wins_and_is_counted(picture):
    found, rejects = checked(record(picture, Box("dog", 70, 10, 30, 30), width=80, height=100))
    assert found is not None and (found.width, found.height) == (100, 80)
    assert found.boxes == (Box("dog", 70, 10, 30, 30),)
    assert reasons(rejects) == ["declared size wrong"]
    assert reasons(checked(record(picture, width=100, height=80))[1]) == []
    assert reasons(checked(record(picture))[1]) == []


def test_boxes_of_the_picture_as_viewers_turn_it_are_not_taken_for_raw_pixels(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "turned.jpg"
    Image.new("RGB", (100, 80)).save(path, exif=exif)
    found, rejects = checked(record(path, Box("dog", 1, 1, 5, 5), width=80, height=100))
    assert found is None and reasons(rejects) == ["boxes of the turned image"]
    found, rejects = checked(record(path, Box("dog", 1, 1, 5, 5), width=100, height=80))
    assert found is not None and not rejects and (found.width, found.height) == (100, 80)
    found, rejects = checked(record(path, Box("dog", 1, 1, 5, 5)))
    assert found is not None and reasons(rejects) == ["EXIF orientation not applied"], "nothing tells what boxes are of"


@pytest.mark.parametrize("size, orientation", [((100, 80), 3), ((80, 80), 6)])
def test_a_turned_image_of_the_same_size_is_noted_although_a_size_is_declared(tmp_path, size, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", size).save(tmp_path / "turned.jpg", exif=exif)
    found, rejects = checked(record(tmp_path / "turned.jpg", width=size[0], height=size[1]))
    assert found is not None and reasons(rejects) == ["EXIF orientation not applied"]


def test_a_torn_image_is_found_by_decoding_only_and_limits_are_the_callers(picture, tmp_path):
    torn = tmp_path / "torn.jpg"
    torn.write_bytes(picture.read_bytes()[:-40])
    found, rejects = checked(record(torn))
    assert found is None and reasons(rejects) == ["truncated"]
    assert checked(record(torn), verify="header")[0] is not None
    found, rejects = checked(record(picture), ImageLimits(max_side=50))
    assert found is None and reasons(rejects) == ["too large"]


sides = st.floats(-200, 300, width=32) | st.sampled_from([float("nan"), float("inf"), 0.0, 80.0, 100.0])
boxes = st.builds(Box, st.sampled_from("ab"), sides, sides, sides, sides)


@given(st.lists(boxes, max_size=6), st.data())
@settings(max_examples=60)
def test_whatever_comes_in_what_goes_out_is_usable(picture, given_boxes, data):
    ends = st.integers(0, len(given_boxes) - 1)
    relation = st.builds(AnnotatedRelation, ends, st.sampled_from(["on", "near"]), ends)
    relations = data.draw(st.lists(relation, max_size=5)) if given_boxes else []
    found, rejects = checked(record(picture, *given_boxes, relations=tuple(relations)), verify="header")
    assert found is not None
    for box in found.boxes:
        assert box.w > 0 and box.h > 0 and box.x >= 0 and box.y >= 0
        assert box.x + box.w <= 100.001 and box.y + box.h <= 80.001
    assert len({box[:5] for box in found.boxes}) == len(found.boxes)
    assert all(r.subject != r.object and max(r.subject, r.object) < len(found.boxes) for r in found.relations)
    again, more = checked(found, verify="header")
    assert again == found and not more
    lost = len(given_boxes) - len(found.boxes) + len(relations) - len(found.relations)
    assert sum(reject.reason != "box clipped" for reject in rejects) == lost


def test_fingerprints(tmp_path):
    path = save_picture(tmp_path / "a.jpg")
    by_bytes = fingerprint(record(path).path)
    assert by_bytes == hashlib.sha256(path.read_bytes()).hexdigest()
    by_stat = fingerprint(record(path).path, by="stat")
    os.utime(path, ns=(1, 1))
    assert fingerprint(record(path).path) == by_bytes
    assert fingerprint(record(path).path, by="stat") != by_stat
    path.write_bytes(path.read_bytes() + b"\x00")
    assert fingerprint(record(path).path) != by_bytes
    for by in ("bytes", "stat"):
        with pytest.raises(BadImage, match="missing file"):
            fingerprint(record(tmp_path / "no.jpg").path, by=by)  # type: ignore[arg-type]
