"""A dataset that has grown is found again wherever it is moved, copied or pulled to: nothing is computed anew."""

import json
import shutil
from pathlib import Path

import pytest
from rlip_command import output_of
from small_set import write_small_set
from tiny_chain import World


def _due(root: Path, store: str | Path, *settings: str) -> set[str]:
    """The steps that a run would compute something of."""
    return World(root, root / "recipe.toml", root, store).due(*settings)


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of seven images in partitions of four, which has grown from five, with its finished run. So the last
    partition has fewer images than the first, as partitioning anew would not have it. The last test moves it."""
    root = tmp_path_factory.mktemp("grown") / "set"
    recipe = write_small_set(root, 7)
    whole = json.loads((root / "instances.json").read_text())
    first = {**whole, "images": whole["images"][:5], "annotations": whole["annotations"][:10]}
    for stated in (first, whole):
        (root / "instances.json").write_text(json.dumps(stated))
        output_of("run", recipe, "--direct")
    assert _due(root, root / "out" / "store") == set()
    return root


def test_after_a_move_and_with_a_copied_store_nothing_is_due(grown, tmp_path):
    copy = tmp_path / "elsewhere" / "copy"
    shutil.copytree(grown, copy)
    assert _due(copy, copy / "out" / "store", f"caption.recorded=['{copy}/captions.json']") == set()
    (copy / "instances.json").rename(copy / "renamed.json")
    sources = (copy / "recipe.toml").read_text().replace("instances.json", "renamed.json")
    (copy / "recipe.toml").write_text(sources)
    assert _due(copy, copy / "out" / "store", f"caption.recorded=['{copy}/captions.json']") == set()


def test_a_backup_restored_elsewhere_has_nothing_due(grown, tmp_path):
    backup, restored = f"file://{tmp_path}/backup", tmp_path / "restored"
    output_of("store", "push", "small", backup, "--store", grown / "out" / "store")
    output_of("store", "pull", "small", backup, "--store", restored)
    moved = grown.rename(tmp_path / "moved")
    assert _due(moved, restored, f"caption.recorded=['{moved}/captions.json']") == set()
