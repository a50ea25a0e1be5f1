"""Steps over a whole dataset, which run in the process of the run."""

from types import SimpleNamespace
from typing import Any

import torch

from pipeline.run import runner
from pipeline.run.dag import Step
from pipeline.run.planner import StepPlan
from pipeline.runtime.execute import Record, WorkItem
from pipeline.stages.evaluate import EvaluateSettings, EvaluateStage
from storage.keys import KeyTerms


def test_an_evaluation_leaves_the_memory_of_its_gpu_to_the_next_training_run(monkeypatch):
    item = WorkItem("evaluate", "all", KeyTerms("evaluate", 1, {}, {}))
    record = Record("evaluate", "all", item.key, False, rows_in=1, rows_out=1, rejected={}, seconds=1.0, seen=1)
    settings, events = EvaluateSettings(), list[str]()
    call: Any = SimpleNamespace(opened=lambda *given: EvaluateStage(settings))
    monkeypatch.setattr(runner, "stage_call", lambda *given: call)
    monkeypatch.setattr(runner, "execute", lambda *given: events.append("executed") or record)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: events.append("memory freed"))
    context = SimpleNamespace(store=None, recipe=SimpleNamespace(run=SimpleNamespace(engine="local")))
    display: Any = SimpleNamespace(finished=lambda record: events.append("shown"))
    plan = StepPlan(Step("evaluate", EvaluateStage, settings), [], [item])
    assert runner.execute_whole(SimpleNamespace(context=context), plan, display) is record
    assert events == ["executed", "memory freed", "shown"]
