"""Variants of captions: merged draws, and captions of boxes and pairs of boxes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from caption_rows import ONE_BOX, caption_rows
from PIL import Image
from torch import Tensor

from pipeline.captioning.captioner import Caption, merge
from pipeline.captioning.captioners import Blip
from pipeline.captioning.network import ImageEncoder


def test_merged_draws_are_counted(blip_folder, pictures, tmp_path):
    plain: dict[str, Any] = {"model": str(blip_folder), "draws": 6, "temperature": 0}
    (every,), _ = caption_rows(tmp_path / "set", pictures[:1], **plain)
    (merged,), facts = caption_rows(tmp_path / "set", pictures[:1], **plain, merge_draws=True)
    assert [c["times"] for c in every] == [1] * 6
    assert merged == [{**every[0], "times": 6}] and facts["captions"] == 1


def test_merging_keeps_the_first_of_each_text():
    drawn = [Caption(text, i, 7, -float(i), "blip") for i, text in enumerate(("b", "a", "b", "b"))]
    assert [(c.text, c.draw, c.log_probability, c.times) for c in merge(drawn)] == [("b", 0, 0.0, 3), ("a", 1, -1.0, 1)]


def box(x: float, y: float, w: float, h: float, crowd: bool = False) -> dict[str, Any]:
    return {**ONE_BOX, "x": x, "y": y, "w": w, "h": h, "crowd": crowd}


CROWDED = (box(4.5, 6, 10, 3), box(20, 2.2, 8.4, 20), box(0, 0, 9, 9, crowd=True), box(45, 30, 5, 10))


class Seen:
    """A captioner that keeps what it sees, and says the same of everything twice."""

    needs_images, side, rejects = True, None, ()

    def __init__(self) -> None:
        self.images: list[Image.Image] = []

    def caption(self, images: Sequence[Image.Image], image_ids: Sequence[int]) -> list[list[Caption]]:
        self.images += images
        return [[Caption("a dog", draw, None, None, "seen") for draw in (0, 1)] for _ in images]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    captioner = Seen()
    monkeypatch.setattr(Blip, "open", lambda self, worker=0: captioner)
    return captioner


def of_boxes(rows: list[dict[str, Any]]) -> list[tuple[list[int] | None, int]]:
    return [(caption["boxes"], caption["times"]) for caption in rows]


def test_a_pair_is_cut_out_with_both_boxes_whole_the_likeliest_pairs_first(seen: Seen, tmp_path: Path) -> None:
    image = Image.fromarray(np.arange(40 * 50 * 3, dtype=np.uint32).astype(np.uint8).reshape(40, 50, 3))
    (rows,), facts = caption_rows(tmp_path / "set", [image], CROWDED, of="pair", context=0, merge_draws=True)
    assert of_boxes(rows) == [([0, 1], 2), ([1, 3], 2), ([0, 3], 2)] and facts["captions"] == 3
    assert [crop.size for crop in seen.images] == [(25, 21), (30, 38), (46, 34)]
    assert (np.asarray(seen.images[0]) == np.asarray(image)[2:23, 4:29]).all()
    (rows,), _ = caption_rows(tmp_path / "set", [image], CROWDED, of="pair", max_regions=2, batch_size=1)
    assert of_boxes(rows) == [([0, 1], 1)] * 2 + [([1, 3], 1)] * 2


def test_boxes_are_cut_out_with_their_context_and_a_red_outline(seen: Seen, tmp_path: Path) -> None:
    pictures = [Image.new("RGB", (50, 40)), Image.new("RGB", (50, 40), "white")]
    rows, _ = caption_rows(tmp_path / "set", pictures, CROWDED, of=["image", "box"], max_regions=2, context=0.5)
    assert [of_boxes(row) for row in rows] == [[(None, 1)] * 2 + [([1], 1)] * 2 + [([3], 1)] * 2] * 2
    assert [crop.size for crop in seen.images] == [(50, 40), (18, 33), (8, 15)] * 2
    reds = [(np.asarray(crop) == (255, 0, 0)).all(-1) for crop in seen.images]
    assert not reds[0].any() and reds[1][3:22, 5].all() and not reds[1][:2].any() and not reds[1][5:20, 8:11].any()


def test_an_image_without_a_pair_keeps_an_empty_list(seen: Seen, tmp_path: Path) -> None:
    assert caption_rows(tmp_path / "set", [Image.new("RGB", (9, 9))], of="pair")[0] == [[]]
    assert seen.images == []


@pytest.mark.parametrize("decoding", ["nucleus", "beam"])
def test_byte_copies_are_encoded_once_and_change_no_caption(blip_folder, pictures, tmp_path, monkeypatch, decoding):
    encoded = []

    def counted(self: ImageEncoder, pixels_B3HW: Tensor, run: Any = ImageEncoder.__call__) -> Tensor:
        encoded.append(len(pixels_B3HW))
        return run(self, pixels_B3HW)

    monkeypatch.setattr(ImageEncoder, "__call__", counted)
    copied = [pictures[number] for number in (0, 1, 2, 0, 1, 0)]
    plain: dict[str, Any] = {"model": str(blip_folder), "draws": 3, "decoding": decoding}
    once, _ = caption_rows(tmp_path / "set", copied, **plain, batch_size=3)
    assert sum(encoded) == 3
    each, _ = caption_rows(tmp_path / "set", copied, **plain, batch_size=1)
    assert sum(encoded) == 3 + 6
    assert once == each
    assert (once[0] == once[3]) is (decoding == "beam")  # every image has draws of its own
