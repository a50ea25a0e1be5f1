"""The doctor finds what is missing before any work, and says what to do."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from pipeline.run.context import RunContext
from pipeline.run.doctor import examine, require, stated_ranges, unmet
from pipeline.run.recipe import Recipe
from storage.errors import FatalError
from tests.data.toy_sets import save_json, save_picture

CONTENT = {"images": [], "annotations": [], "categories": []}


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    """A recipe with complete data."""
    save_picture(tmp_path / "images" / "a.jpg")
    save_json(tmp_path / "instances.json", CONTENT)
    save_json(tmp_path / "captions.json", {})
    return Recipe.model_validate(
        {
            "name": "toy",
            "store": str(tmp_path / "store"),
            "data": {
                "root": tmp_path,
                "sources": [{"name": "toy", "format": "coco", "images": "images", "annotations": "instances.json"}],
                "label": ["toy"],
            },
            "caption": {"captioner": "recorded", "recorded": ["captions.json"]},
            "pretrain": {"arms": []},
        }
    )


def changed(recipe: Recipe, **values: Any) -> Recipe:
    return Recipe.model_validate({**recipe.model_dump(), **values})


def missing(recipe: Recipe) -> dict[str, str]:
    return {finding.what: finding.detail for finding in examine(RunContext(recipe)) if finding.state == "missing"}


def test_nothing_is_missing_where_all_is_there(recipe: Recipe) -> None:
    assert missing(recipe) == {}
    require(RunContext(recipe))
    found = {finding.what: finding.detail for finding in examine(RunContext(recipe))}
    assert {"data.sources toy", "disk", "versions", "machine", "accelerator"} <= found.keys()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (gzip.compress(b"{}", mtime=0), "is compressed; unpack it first"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "is a Git LFS pointer"),
        (b"<html>gone</html>", "is not JSON: it begins with b'<html>"),
        (b"", "is empty"),
    ],
)
def test_annotations_that_are_no_json(recipe: Recipe, tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "instances.json").write_bytes(data)
    assert message in missing(recipe)["data.sources toy"]
    with pytest.raises(FatalError, match=r"data.sources toy: annotations: .*instances\.json is"):
        require(RunContext(recipe))


def test_a_tokenizer_folder_without_a_tokenizer(recipe: Recipe, tmp_path: Path) -> None:
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    asked = changed(
        recipe, pretrain={"arms": ["none"], "settings": {"tokenizer": folder}}, data=recipe.data.model_dump()
    )
    assert "needs tokenizer.json, or vocab.json and merges.txt" in missing(asked)["pretrain:none tokenizer"]
    (folder / "vocab.json").write_text("{}")
    (folder / "merges.txt").write_text("")
    assert missing(asked) == {}


def test_everything_that_is_missing_is_told_at_once(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "instances.json").unlink()
    (tmp_path / "captions.json").unlink()
    assert {"data.sources toy", "caption recorded 0"} <= missing(recipe).keys()


def test_versions_out_of_range_are_named_with_what_to_install() -> None:
    wanted = [Requirement(line) for line in ("numpy>=99", "rlip-no-such-package>=1,<2", "pyarrow>=1")]
    old, absent = unmet(wanted)
    assert old.startswith("numpy is ") and "pip install 'numpy>=99'" in old
    assert absent == "rlip-no-such-package is not installed: pip install 'rlip-no-such-package<2,>=1'"


def test_extras_are_asked_for_only_by_recipes_that_use_them() -> None:
    assert "s3fs" not in {wanted.name for wanted in stated_ranges()}
    assert {"s3fs", "torch"} <= {wanted.name for wanted in stated_ranges(extras=["s3"])}
