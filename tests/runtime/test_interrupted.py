"""A training that was interrupted and whose settings then changed starts from scratch, and says so."""

import pytest
from toy_chain import Second

from pipeline.runtime.execute import WorkItem, execute, interrupted
from pipeline.runtime.settings import Settings
from pipeline.runtime.stage import Inputs, Output, ReportProgress
from storage.keys import KeyTerms
from storage.local_store import LocalStore


class Training(Second):
    """Is interrupted after a checkpoint."""

    resumes_from = "resume.json"

    def run(self, inputs: Inputs, work, report: ReportProgress) -> Output:
        (work / "resume.json").touch()
        raise KeyboardInterrupt


def test_a_changed_setting_that_costs_checkpoints_is_named(tmp_path):
    store, notes = LocalStore(tmp_path), []

    def attempt(step: str, batch: int) -> WorkItem:
        item = WorkItem(step, "all", KeyTerms("second", 1, {"batch": batch, "steps": 9}, {"shards": [step]}))
        with pytest.raises(KeyboardInterrupt):
            execute(Training(Settings()), item, store, lambda done, total, note="": notes.append(note))
        return item

    item = attempt("pretrain:none", 8)
    assert notes == [] and interrupted(Training, item, store) == "continues from its last checkpoint"
    attempt("pretrain:none", 8)
    attempt("pretrain:pseudo", 16)
    assert notes == [], "the same training, and one of another step"
    attempt("pretrain:none", 16)
    assert notes == ["starts from scratch, because it differs from the interrupted one: batch: 8 → 16"]
