"""The same recipe gives the same bytes in every table and tar, whatever the order, the workers and the crashes."""

import random
import shutil
from pathlib import Path

import pytest
from faulty_disk import Died, FaultyDisk
from tiny_chain import World

from pipeline.run.context import RunContext
from pipeline.run.planner import Planner
from pipeline.run.recipe_files import load_recipe
from pipeline.run.runner import stage_call
from pipeline.runtime.execute import execute
from pipeline.runtime.stage import Stage

LABELLING = ("caption", "parse", "tag", "shard:pseudo")


@pytest.mark.usefixtures("one_thread")
def test_any_order_and_crashes_give_the_bytes_of_an_undisturbed_run(finished, copied):
    for step in LABELLING:
        for artifact in copied.artifacts()[step].values():
            shutil.rmtree(artifact.folder)
    chance, opened, crashes = random.Random(1), {}, 0
    while not _goes_to_the_end(copied, chance, opened):
        crashes += 1
    assert crashes > 2
    assert copied.files() == finished.files()
    assert any(name.endswith(".tar") for files in copied.files().values() for name in files)
    assert copied.due() == set(), "so nothing downstream is recomputed"


def _goes_to_the_end(world: World, chance: random.Random, opened: dict[str, Stage]) -> bool:
    """Whether a run, without workers and in random partition order, ends before a crash at a random disk operation."""
    settings = [f"data.root={world.data}", f"store={world.store}"]
    planner = Planner(RunContext(load_recipe(world.recipe, settings)))
    planner.context.store.sweep()
    planner.context.store.disk = FaultyDisk(Path(world.store), chance.randint(1, 100), "stop")
    try:
        for step in planner.context.steps:
            plan = planner.plan(step)
            chance.shuffle(plan.due)
            assert step.name in LABELLING or not plan.due
            if plan.due and step.name not in opened:
                opened[step.name] = stage_call(planner, plan).opened(planner.context.store, plan.due[0])
            made = [
                execute(opened[step.name], item, planner.context.store, lambda done, total, note="": None)
                for item in plan.due
            ]
            planner.finish(step, [*plan.cached, *made])
    except Died:
        return False
    return True
