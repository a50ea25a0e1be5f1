"""Blocks hold every partition once, in order, in no more groups than requested; flows go by the recipe at hand."""

from threading import Event
from typing import Any
from uuid import uuid4

import httpx
import pytest
from hypothesis import given, strategies as st
from small_set import small_recipe, write_small_set
from small_stages import CountSettings, CountStage
from warm_process import wait_for

from flows import artifacts, chain, stages
from flows.artifacts import ProgressArtifact, artifact_key
from flows.session import Session
from flows.stages import shard, split_into_blocks
from pipeline.report.steps import StepOutcome
from pipeline.run.context import RunContext
from pipeline.run.dag import Step
from pipeline.run.planner import Planner, StepPlan
from pipeline.run.progress import Display
from pipeline.run.runner import step_outcome
from pipeline.runtime.execute import Record, WorkItem
from storage.errors import FatalError
from storage.keys import KeyTerms

STEP = Step("count", CountStage, CountSettings())


def _plan(cached: list[str], due: list[str]) -> StepPlan:
    items = [WorkItem("count", name, KeyTerms("count", 1, {}, {"ids": [name]})) for name in due]
    return StepPlan(STEP, [Record("count", name, "key", True, 1, 1, {}, 0.0, 1) for name in cached], items)


@given(st.lists(st.booleans(), max_size=60), st.integers(1, 20))
def test_every_due_item_is_in_one_block_and_blocks_follow_the_partitions(due, most):
    names = [f"set/{number:04d}" for number in range(len(due))]
    waiting = [name for name, is_due in zip(names, due, strict=True) if is_due]
    plan = _plan([name for name in names if name not in waiting], waiting)
    blocks = split_into_blocks(plan, most, Event())
    assert len(blocks) <= most
    assert [item.partition for block in blocks for item in block.due] == waiting
    assert sum(block.cached + len(block.due) for block in blocks) == len(names)
    assert [block.first for block in blocks] == sorted(block.first for block in blocks)
    sizes = [block.cached + len(block.due) for block in blocks]
    assert not sizes or 0 < min(sizes) <= max(sizes) <= min(sizes) + 1


def test_a_step_that_is_wholly_cached_is_one_block():
    (block,) = split_into_blocks(_plan([f"set/{n:04d}" for n in range(40)], []), 16, Event())
    assert str(block) == "count set/0000 to set/0039" and block.cached == 40 and not block.due


def test_what_another_run_has_made_meanwhile_is_not_called_computed():
    plan = _plan(["set/0000"], ["set/0001", "set/0002"])
    made = [Record("count", i.partition, i.key, i is plan.due[0], 1, 1, {}, 0.0, 1) for i in plan.due]
    outcome = step_outcome(plan, [*plan.cached, *made], 1.0)
    assert (outcome.partitions, outcome.cached) == (3, 2)
    assert stages._completed(made, len(plan.cached)).message == "2 cached, 1 computed, 2 rows"


def test_artifact_keys_are_what_prefect_takes():
    assert artifact_key("progress", "My_Run.2", "shard:pseudo") == "progress-my-run-2-shard-pseudo"


def test_no_step_waits_for_a_slow_server_and_one_that_is_lost_is_reported(monkeypatch):
    answers = Event()

    def update(*_: object) -> None:
        answers.wait(20)
        raise httpx.ConnectError("refused")

    monkeypatch.setattr(artifacts, "UPDATE_EVERY", 0.0)
    monkeypatch.setattr(artifacts, "create_progress_artifact", lambda *_: uuid4())
    monkeypatch.setattr(artifacts, "update_progress_artifact", update)
    plan, artifact = _plan([], ["set/0000"]), ProgressArtifact("run")
    artifact.step(plan)
    for done in (1, 2):
        artifact.progress(plan.due[0], done, 4, "")
    answers.set()
    with pytest.raises(httpx.ConnectError):
        wait_for(artifact.pulse, "the lost server is not reported")


def test_figures_are_published_by_the_recipe_of_this_execution(tmp_path, monkeypatch):
    write_small_set(tmp_path)
    context = RunContext(small_recipe(tmp_path, "run.until=ingest", "pretrain.seeds=[1, 2]"))
    context.run.note("recipe", {"pretrain": {"seeds": [0]}})
    published: list[Any] = []
    monkeypatch.setattr(chain, "publish_run", lambda context, outcome: published.append(context.run.recipe))
    done = {"ingest": StepOutcome("ingest", 2, 2, 8, 8, 0, 0.0, 0.0)}
    chain._publish(Session(Planner(context), Display(), reports=False, steps=done))
    assert [recipe["pretrain"]["seeds"] for recipe in published] == [[1, 2]]


def test_a_stage_that_the_recipe_does_not_have_is_refused_alone(tmp_path):
    write_small_set(tmp_path)
    with pytest.raises(FatalError, match="stage 'shard': recipe 'small' has no such stage; it has ingest, caption, p"):
        shard.fn(small_recipe(tmp_path))
