"""What a run tells while it goes on and how it ended: Prometheus metrics, and structured logs of it and its workers."""

import json
import socket
from pathlib import Path
from shutil import rmtree
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rlip_command import rlip
from small_set import small_recipe, write_small_set

from flows.server import free_port
from pipeline.interop import openlineage_delivery
from pipeline.run.context import RunContext
from pipeline.run.metrics import measured
from pipeline.run.progress import Display, Lines, open_display
from pipeline.run.runner import logged_run, run
from pipeline.runtime.execute import Record
from storage.errors import FatalError

NAMES = ("step", "state", "direction", "reason", "le")
Values = dict[tuple[str, ...], float]


def values(text: str) -> Values:
    """Name and labels but `run`, in the order of `NAMES` → value."""
    return {
        (sample.name, *(sample.labels[name] for name in NAMES if name in sample.labels)): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


class Scraping(Display):
    """A display that scrapes the metrics when a partition is finished, as a server would at that moment."""

    def __init__(self, port: int) -> None:
        self.port, self.scraped = port, list[Values]()

    def finished(self, record: Record) -> None:
        with urlopen(f"http://127.0.0.1:{self.port}/metrics") as answer:
            self.scraped.append(values(answer.read().decode()))


def test_a_run_is_scraped_while_it_runs(tmp_path):
    write_small_set(tmp_path)
    (tmp_path / "images" / "000002.png").write_bytes(b"no picture")
    port, file = free_port(), tmp_path / "run.prom"
    words = ("run.until=ingest", "run.checks.max_overall_reject_share=0.5", f"run.metrics_port={port}")
    recipe, shown = small_recipe(tmp_path, *words, f"run.metrics_file={file}"), Scraping(port)
    with measured(recipe, shown) as display:
        run(RunContext(recipe), display)
    first, last = shown.scraped
    assert (first["rlip_partitions_due", "ingest"], last["rlip_partitions_due", "ingest"]) == (1, 0)
    assert first["rlip_run_running",] == 1
    assert last["rlip_partitions_total", "ingest", "computed"] == last["rlip_partition_seconds_count", "ingest"] == 2
    assert (last["rlip_rows_total", "ingest", "in"], last["rlip_rows_total", "ingest", "out"]) == (8, 7)
    assert sum(value for name, value in last.items() if name[0] == "rlip_rejected_total") == 1
    ended = values(file.read_text())
    assert (ended["rlip_run_running",], ended["rlip_run_failed",]) == (0, 0)
    assert ended["rlip_partitions_total", "ingest", "computed"] == 2
    with pytest.raises(OSError):
        urlopen(f"http://127.0.0.1:{port}/metrics")


def test_a_failed_run_says_so_in_its_file_and_a_taken_port_or_unwritable_file_is_reported(tmp_path):
    recipe = write_small_set(tmp_path)

    def fails(setting: str, said: str) -> None:
        with pytest.raises(FatalError, match=said), measured(small_recipe(tmp_path, setting), Scraping(0)):
            raise FatalError("no space")

    fails(f"run.metrics_file={tmp_path / 'run.prom'}", "no space")
    ended = values((tmp_path / "run.prom").read_text())
    assert (ended["rlip_run_running",], ended["rlip_run_failed",]) == (0, 1)
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        fails(f"run.metrics_port={port}", rf"run\.metrics_port = {port}: .*choose another port")
    fails(f"run.metrics_file={tmp_path / 'none' / 'run.prom'}", r"run\.metrics_file = .* can't be written")
    # A run that fails its checks is a failed one, too.
    words = ("run.until=ingest", "run.checks.min_rows=100", f"run.metrics_file={tmp_path / 'checked.prom'}")
    failed = rlip("run", recipe, "--direct", *(word for each in words for word in ("--set", each)))
    assert failed.exit_code == 1 and "2 check(s) failed" in failed.output
    ended = values((tmp_path / "checked.prom").read_text())
    assert (ended["rlip_run_running",], ended["rlip_run_failed",]) == (0, 1)


def test_an_interrupt_stays_one_where_metrics_can_no_longer_be_written(tmp_path):
    (tmp_path / "metrics").mkdir()
    recipe = write_small_set(tmp_path / "set").parent
    with (
        pytest.raises(KeyboardInterrupt),
        measured(small_recipe(recipe, f"run.metrics_file={tmp_path / 'metrics' / 'run.prom'}"), Scraping(0)),
    ):
        rmtree(tmp_path / "metrics")
        raise KeyboardInterrupt


def test_a_dead_lineage_server_does_not_fail_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(openlineage_delivery, "RETRIES", 0)
    write_small_set(tmp_path)
    context = RunContext(small_recipe(tmp_path, "run.until=ingest", "run.lineage=http://127.0.0.1:9"))
    with logged_run(context, "direct") as file:
        run(context, Lines(lambda line: None))
    assert "lineage not sent" in file.read_text()


def finished(root: Path, *settings: str) -> tuple[RunContext, Path]:
    """A run with one worker up to its images, and its log."""
    context = RunContext(small_recipe(root, "run.workers=1", "run.until=ingest", *settings))
    with logged_run(context, "direct") as path, open_display(Console(quiet=True), as_json=False) as display:
        run(context, display)
    return context, path


def test_a_run_and_its_workers_log_what_they_do(tmp_path):
    write_small_set(tmp_path)
    context, path = finished(tmp_path, "run.log_format=json")
    events = [json.loads(line) for line in path.read_text().splitlines()]
    assert [event["event"] for event in events] == ["run started", "planned", "done", "run finished"]
    assert {event["run"] for event in events} == {context.recipe.name}
    assert events[1]["step"] == "ingest" and events[1]["due"] == 2
    worker = [json.loads(line) for line in (path.parent / "worker-0.log").read_text().splitlines()]
    assert [(event["event"], event["partition"]) for event in worker] == [
        (event, f"set/{number:04d}") for number in range(2) for event in ("started", "committed")
    ]
    assert all(event["step"] == "ingest" and len(event["key"]) == 64 for event in worker)


def test_every_execution_is_recorded_with_how_it_ended_and_a_failed_one_logs_why(tmp_path):
    write_small_set(tmp_path)
    _, log = finished(tmp_path)
    with pytest.raises(FatalError, match="8 of 8 rows rejected"):
        finished(tmp_path, "ingest.limits.min_side=5000", "run.checks.max_overall_reject_share=0")
    (of_failed,) = {*log.parents[1].glob("*/run.log")} - {log}
    *_, failed = of_failed.read_text().splitlines()
    assert "ERROR   run failed" in failed and "8 of 8 rows rejected" in failed
    first, second = finished(tmp_path)[0].run.records()[:2]
    assert (first.facts["status"], [step["step"] for step in first.facts["outcome"]]) == ("completed", ["ingest"])
    assert (second.facts["status"], second.facts["outcome"]) == ("failed", [])
    assert "rejected" in second.facts["error"]


def test_a_log_that_can_not_be_written_stops_before_work(tmp_path):
    write_small_set(tmp_path)
    (tmp_path / "taken").write_text("a file")
    context = RunContext(small_recipe(tmp_path, f"reports={tmp_path / 'taken'}"))
    with pytest.raises(FatalError, match=r"run\.log can't be written .*set `reports`"), logged_run(context, "direct"):
        pytest.fail("the run began")
