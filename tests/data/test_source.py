"""Tests which source settings fit each format, and which of them go into a key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.data.datasets.source import DataSource

PLAIN: dict[str, Any] = {"name": "toy", "format": "coco", "images": Path("images"), "annotations": Path("a.json")}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"format": "voc"}, "format"),
        ({"name": "a/b"}, "name"),
        ({"annotation": "a.json"}, "annotation"),
        ({"verbs": "v.json"}, "verbs: not used by format 'coco'; remove it"),
        ({"format": "visual_genome", "relations": "r.json"}, "relations: not used by format 'visual_genome'"),
        ({"drop_fake": True}, "drop_fake: only for format 'objects365'; remove it"),
        ({"format": "hico_det"}, "verbs: required by format 'hico_det'"),
        ({"images": 5}, "images"),
    ],
)
def test_a_wrong_field_is_named(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DataSource(**{**PLAIN, **changed})


def test_paths_are_no_part_of_a_key() -> None:
    assert DataSource(**PLAIN).row_settings() == {
        "name": "toy", "format": "coco", "split": "train", "drop_fake": False, "drop_reflected": False,
    }  # fmt: skip
