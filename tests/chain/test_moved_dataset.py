"""A dataset that has grown is found again wherever it is moved, copied or pulled to: nothing is computed anew."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from rlip_command import output_of
from small_set import write_small_set


def _due(root: Path, store: str | Path, *words: str) -> dict[str, Any]:
    """Step → number of partitions that a run would compute."""
    sets = [word for setting in (f"data.root={root}", f"store={store}", *words) for word in ("--set", setting)]
    (rows,) = map(json.loads, output_of("plan", root / "recipe.toml", "--json", *sets).splitlines())
    return {row["step"]: row["due"] for row in rows}


@pytest.fixture
def grown(tmp_path: Path) -> Path:
    """A set of seven images in partitions of four, which has grown from five, with its finished run. So the last partition
    has fewer images than the first, as partitioning anew would not have it."""
    root = tmp_path / "set"
    recipe = write_small_set(root, 7)
    whole = json.loads((root / "instances.json").read_text())
    first = {**whole, "images": whole["images"][:5], "annotations": whole["annotations"][:10]}
    for stated in (first, whole):
        (root / "instances.json").write_text(json.dumps(stated))
        output_of("run", recipe, "--direct")
    assert sorted(_due(root, root / "out" / "store").values()) == [0, 0, 0]
    return root


def test_after_a_move_and_with_a_copied_store_nothing_is_due(grown, tmp_path):
    copy = tmp_path / "elsewhere" / "copy"
    shutil.copytree(grown, copy)
    assert set(_due(copy, copy / "out" / "store", f"caption.recorded=['{copy}/captions.json']").values()) == {0}
    (copy / "instances.json").rename(copy / "renamed.json")
    sources = (copy / "recipe.toml").read_text().replace("instances.json", "renamed.json")
    (copy / "recipe.toml").write_text(sources)
    assert set(_due(copy, copy / "out" / "store", f"caption.recorded=['{copy}/captions.json']").values()) == {0}


def test_a_backup_restored_elsewhere_has_nothing_due(grown, tmp_path):
    backup, restored = f"file://{tmp_path}/backup", tmp_path / "restored"
    output_of("store", "push", "small", backup, "--store", grown / "out" / "store")
    output_of("store", "pull", "small", backup, "--store", restored)
    moved = grown.rename(tmp_path / "moved")
    assert set(_due(moved, restored, f"caption.recorded=['{moved}/captions.json']").values()) == {0}
