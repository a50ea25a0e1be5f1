"""Variants of captions: merged draws, and captions of crops around pairs of boxes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from caption_rows import ONE_BOX, caption_rows
from PIL import Image
from torch import Tensor

from pipeline.captioning.blip import BlipCaptioner, pair_crops
from pipeline.captioning.captioner import Caption, merge
from pipeline.captioning.network import ImageEncoder
from pipeline.captioning.settings import CaptionSettings


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


def test_a_pair_is_cut_out_with_both_boxes_whole():
    image = Image.fromarray(np.arange(40 * 50 * 3, dtype=np.uint32).astype(np.uint8).reshape(40, 50, 3))
    boxes = [box(4.5, 6, 10, 3), box(20, 2.2, 8.4, 20), box(0, 0, 9, 9, crowd=True), box(45, 30, 90, 90)]
    crops = pair_crops(image, boxes, 100)
    assert [crop.size for crop in crops] == [(25, 21), (46, 34), (30, 38)]
    assert (np.asarray(crops[0]) == np.asarray(image)[2:23, 4:29]).all()
    assert [crop.size for crop in pair_crops(image, boxes, 2)] == [(25, 21), (46, 34)]


def test_boxes_outside_the_image_make_no_crop():
    assert pair_crops(Image.new("RGB", (10, 10)), [box(20, 2, 5, 5), box(30, 2, 5, 5)], 100) == []
    assert pair_crops(Image.new("RGB", (10, 10)), [box(1, 1, 5, 5)], 100) == []


def test_dense_captions_are_the_likeliest_of_the_cut_outs(blip_folder, pictures, tmp_path):
    boxes = [box(0, 0, 20, 20), box(10, 30, 20, 15), box(40, 5, 10, 10)]
    plain: dict[str, Any] = {"model": str(blip_folder), "draws": 2}
    (whole,), _ = caption_rows(tmp_path / "set", pictures[:1], boxes, **plain)
    (only,), _ = caption_rows(tmp_path / "set", pictures[:1], boxes, **plain, dense="only")
    (both,), _ = caption_rows(tmp_path / "set", pictures[:1], boxes, **plain, dense="also", dense_pairs=2)
    beams = BlipCaptioner(CaptionSettings(model=str(blip_folder), decoding="beam"))
    expected = [c.text for (c,) in beams.caption(pair_crops(pictures[0], boxes, 3), [0, 1, 2])]
    assert [c["text"] for c in only] == expected
    assert [(c["draw"], c["seed"], c["source"]) for c in only] == [(i, None, "blip beam dense") for i in range(3)]
    assert both == [*whole, *({**c, "draw": c["draw"] + 2} for c in only[:2])]


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
