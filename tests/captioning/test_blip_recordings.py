"""The recipe that reads BLIP's own captions, and the stage on all 15,000 of them."""

import json
from pathlib import Path

import pytest
from caption_rows import ONE_BOX, images_artifact
from tiny_chain import World

from pipeline.captioning.settings import CaptionSettings
from pipeline.run.recipe_files import load_recipe
from pipeline.runtime.stage import Inputs
from pipeline.stages.caption import CaptionStage
from storage.open_store import existing_store
from storage.runs import Run

MODELS = ["BLIP_ViT-L", "BLIP_nucleus_ViT-L", "BLIP_2_2.7b"]


@pytest.fixture(scope="module")
def expected(shared: Path) -> dict[int, list[str]]:
    """Image id → the caption of each model, with single blanks."""
    found: dict[int, list[str]] = {}
    for model in MODELS:
        for row in json.loads((shared / "data" / "blip_captions" / f"{model}.json").read_text()):
            found.setdefault(row["image_id"], []).append(" ".join(row["caption"].split()))
    return found


def test_every_one_of_5000_images_gets_its_three_captions(shared, expected, tmp_path):
    files = tuple(shared / "data" / "blip_captions" / f"{model}.json" for model in MODELS)
    stage = CaptionStage(CaptionSettings(captioner="recorded", recorded=files))
    images = [
        {"image_id": image_id, "dataset": "coco", "uri": f"{image_id}.jpg", "boxes": [ONE_BOX]} for image_id in expected
    ]
    stage.open(Inputs())
    output = stage.run(
        Inputs({"images": [images_artifact(tmp_path, images)]}), tmp_path, lambda done, total, note="": None
    )
    rows = output.table.to_pylist()
    assert len(rows) == 5000 and not output.rejected
    assert {row["image_id"]: [caption["text"] for caption in row["captions"]] for row in rows} == expected
    assert all([caption["source"] for caption in row["captions"]] == MODELS for row in rows)


@pytest.mark.timeout(1800)
def test_the_recipe_reads_them_for_the_images_that_it_has(shared, expected, root, tmp_path):
    world = World(root, root / "recipes" / "blip_captions.toml", shared / "data", tmp_path / "store")
    world.run("run.until=parse", f"reports={tmp_path}/reports")
    run = Run(existing_store(world.store), load_recipe(world.recipe).name)
    captions, triplets = (
        {row["image_id"]: row[table] for part in run.artifacts(step).values() for row in part.table(table).to_pylist()}
        for step, table in (("caption", "captions"), ("parse", "triplets"))
    )
    captioned = {image_id: [caption["text"] for caption in found] for image_id, found in captions.items() if found}
    assert len(captions) == 188 and len(captioned) == 40
    assert captioned == {image_id: expected[image_id] for image_id in captioned}
    assert all(image_id in captioned for image_id, found in triplets.items() if found)
    assert sum(map(bool, triplets.values())) > 30, "most captions should state something"
