"""A run's structured logs: one file for the run, one for each worker, with run, step and partition in every event."""

import json

import pytest
from rich.console import Console
from small_set import small_recipe, write_small_set

from pipeline.run.context import RunContext
from pipeline.run.progress import open_display
from pipeline.run.runner import logged_run, run
from storage.errors import FatalError


def test_a_run_and_its_workers_log_what_they_do(tmp_path):
    write_small_set(tmp_path)
    context = RunContext(small_recipe(tmp_path, "run.log_format=json", "run.workers=1", "run.until=ingest"))
    with logged_run(context, "direct") as path, open_display(Console(quiet=True), as_json=False) as display:
        run(context, display)
    events = [json.loads(line) for line in path.read_text().splitlines()]
    assert [event["event"] for event in events] == ["run started", "planned", "done", "run finished"]
    assert {event["run"] for event in events} == {context.recipe.name}
    assert events[1]["step"] == "ingest" and events[1]["due"] == 2
    worker = [json.loads(line) for line in (path.parent / "worker-0.log").read_text().splitlines()]
    assert [(event["event"], event["partition"]) for event in worker] == [
        (event, f"set/{number:04d}") for number in range(2) for event in ("started", "committed")
    ]
    assert all(event["step"] == "ingest" and len(event["key"]) == 64 for event in worker)


def test_a_failed_run_logs_why(tmp_path):
    write_small_set(tmp_path)
    context = RunContext(small_recipe(tmp_path, "data.root=nowhere"))
    with (
        pytest.raises(FatalError, match="nowhere"),
        logged_run(context, "direct") as path,
        open_display(Console(quiet=True), as_json=False) as display,
    ):
        run(context, display)
    started, failed = path.read_text().splitlines()
    assert "INFO    run started" in started and "ERROR   run failed" in failed and "nowhere" in failed


def test_every_execution_is_recorded_with_how_it_ended(tmp_path):
    write_small_set(tmp_path)

    def execute(*settings: str) -> RunContext:
        context = RunContext(small_recipe(tmp_path, "run.workers=1", "run.until=ingest", *settings))
        with logged_run(context, "direct"), open_display(Console(quiet=True), as_json=False) as display:
            run(context, display)
        return context

    execute()
    with pytest.raises(FatalError, match="8 of 8 rows rejected"):
        execute("ingest.limits.min_side=5000", "run.checks.max_overall_reject_share=0")
    first, second = execute().run.records()[:2]
    assert (first.facts["status"], [step["step"] for step in first.facts["outcome"]]) == ("completed", ["ingest"])
    assert (second.facts["status"], second.facts["outcome"]) == ("failed", [])
    assert "rejected" in second.facts["error"]


def test_a_log_that_can_not_be_written_stops_before_work(tmp_path):
    write_small_set(tmp_path)
    (tmp_path / "taken").write_text("a file")
    context = RunContext(small_recipe(tmp_path, f"reports={tmp_path / 'taken'}"))
    with pytest.raises(FatalError, match=r"run\.log can't be written .*set `reports`"), logged_run(context, "direct"):
        pytest.fail("the run began")
