"""What users see of a running step: what is loaded or waited for, images, and the time that is left."""

import io
import json
import re
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from rich.console import Console

from pipeline.run.dag import Step
from pipeline.run.planner import StepPlan
from pipeline.run.progress import Display, Lines, Throughput, open_display
from pipeline.runtime.execute import Record, WorkItem
from pipeline.runtime.settings import Settings
from pipeline.stages.caption import CaptionStage
from storage.keys import KeyTerms

TERMS = KeyTerms("caption", 1, {}, {}, {})
SMALL, LARGE = (WorkItem("caption", f"set/{n}", TERMS, images=images) for n, images in enumerate((10, 90)))


def plan() -> StepPlan:
    """A step of which 50 images are cached and 100 are due, in two partitions, with a minute of work after it."""
    cached = Record("caption", "set/2", "", True, rows_in=50, rows_out=50, rejected={}, seconds=1.0, seen=50)
    return StepPlan(Step("caption", CaptionStage, Settings()), [cached], [SMALL, LARGE], later=60.0)


def test_lines_say_at_once_what_is_loaded_and_waited_for():
    lines: list[str] = []
    shown = Lines(lines.append)
    shown.busy("starting Prefect")
    shown.step(plan())
    for _ in range(2):
        shown.progress(SMALL, 0, 1, "another run on gpu-7 is computing it")
    shown.progress(SMALL, 1, 10, "")
    assert lines == [
        "starting Prefect",
        "caption: 1 cached, 2 due; loading the captioner",
        "caption set/0: another run on gpu-7 is computing it",
    ]


def test_lines_count_images_over_all_workers(monkeypatch):
    monkeypatch.setattr("pipeline.run.progress.LINE_EVERY", 0.0)
    lines: list[str] = []
    shown = Lines(lines.append)
    shown.step(plan())
    shown.progress(SMALL, 5, 10, "")
    shown.progress(LARGE, 30, 90, "")
    assert lines[1] == "caption: 5 of 100 images" and lines[2].startswith("caption: 35 of 100 images, ")
    assert " left, " in lines[2] and lines[2].endswith(" for the run")


def on_a_terminal(events: Callable[[Display], None]) -> list[str]:
    """What is left on a terminal after these events, without colours."""
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, no_color=True, width=120, _environ={})
    with open_display(console, as_json=False) as shown:
        events(shown)
    return [
        line.strip()
        for line in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "\r", out.getvalue()).replace("\r", "\n").splitlines()
    ]


def test_brackets_and_long_lines_are_written_as_they_are():
    text = f"photos[1].png and [/closed] can't be read; {'x' * 100}"
    out = io.StringIO()
    with open_display(Console(file=out, force_terminal=False), as_json=False) as shown:
        shown.warn(text)
    assert out.getvalue() == f"warning: {text}\n"
    assert any("[/closed]" in line for line in on_a_terminal(lambda shown: shown.busy("loading [/closed]")))


def test_a_terminal_without_cursor_movements_shows_lines_at_once():
    out = io.StringIO()
    emacs = Console(file=out, force_terminal=True, _environ={"TERM": "dumb"})
    with open_display(emacs, as_json=False) as shown:
        shown.busy("starting Prefect")
        assert out.getvalue() == "starting Prefect\n"


def test_a_bar_counts_the_cached_images_and_says_what_is_loaded():
    def events(shown: Display) -> None:
        shown.busy("starting Prefect")
        shown.reading("coco", 0.5)
        shown.step(plan())

    lines = on_a_terminal(events)
    assert any(line.startswith("coco") and "50/100" in line and "reading annotations (once)" in line for line in lines)
    assert any(line.startswith("caption") and "50/150" in line and "loading the captioner" in line for line in lines)
    assert "starting Prefect" not in lines[-2]


def test_a_bar_ends_full_with_images_and_their_rate():
    def events(shown: Display) -> None:
        shown.step(plan())
        shown.progress(SMALL, 5, 10, "")
        made = [
            Record("caption", item.partition, "", False, item.images, item.images, {}, 1.0, item.images)
            for item in (SMALL, LARGE)
        ]
        for record in made:
            shown.finished(record)
        shown.done(plan(), made, 4.0)

    last = [line for line in on_a_terminal(events) if line.startswith("caption")][-1]
    assert "150/150" in last and last.endswith("100 images, 25 images/s, 4.0 s")


def test_a_bar_is_laid_out_at_intervals_not_for_each_image(monkeypatch):
    monkeypatch.setattr("pipeline.run.progress.EVENT_EVERY", 60.0)
    laid_out: list[str] = []
    monkeypatch.setattr(Throughput, "in_words", lambda self, unit, later: laid_out.append(unit) or unit)

    def events(shown: Display) -> None:
        shown.step(plan())
        for done in range(90):
            shown.progress(LARGE, done, 90, "")

    on_a_terminal(events)
    assert laid_out == ["images"]


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_speed_and_time_left_follow_from_all_workers_and_from_images():
    clock = Clock()
    pace = Throughput({"a": 100, "b": 100, "c": 100, "d": 100}, clock)
    pace.update("a", 0, 100)
    assert pace.in_words("images") == ""
    clock.now += 10
    pace.update("a", 50, 100)
    pace.update("b", 50, 100)
    assert (pace.rate, pace.seconds_left) == (10.0, 30.0)
    assert pace.in_words("images") == "10.0 images/s, 0:00:30 left"
    pace = Throughput({"small": 10, "large": 90}, clock)
    pace.update("small", 0, 10)
    clock.now += 10
    pace.finish("small")
    assert pace.in_words("images") == "1.0 images/s, 0:01:30 left"
    assert pace.in_words("images", later=30) == "1.0 images/s, 0:01:30 left, 0:02:00 for the run"


def test_loading_and_what_an_earlier_run_did_do_not_count():
    clock = Clock()
    pace = Throughput({"all": 0}, clock)
    clock.now += 60
    pace.update("all", 400, 500)
    clock.now += 10
    pace.update("all", 420, 500)
    assert pace.in_words("steps") == "2.0 steps/s, 0:00:40 left"
    clock.now += 990
    assert pace.in_words("steps").startswith("0.02 steps/s")


def test_a_note_takes_no_time_and_takes_back_nothing(monkeypatch, capsys):
    monkeypatch.setattr("pipeline.run.progress.EVENT_EVERY", 0.0)
    with open_display(Console(), as_json=True) as shown:
        shown.step(plan())
        shown.progress(LARGE, 0, 1, "continues from its last checkpoint")
        shown.progress(LARGE, 80, 90, "")
        shown.progress(LARGE, 0, 1, "an image was skipped")
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(event["rate"], event["seconds_left"]) for event in events[1:]] == [(0, None)] * 3


def test_a_committed_partition_counts_whole_even_if_it_told_nothing_more():
    clock = Clock()
    pace = Throughput({"a": 10, "b": 10, "c": 20}, clock)
    pace.update("a", 0, 10)
    clock.now += 8
    pace.finish("a")
    pace.finish("b")
    assert (pace.rate, pace.seconds_left) == pytest.approx((10 / 8, 8.0))
    assert pace.images == (20, 40)
    pace.finish("c")
    assert pace.seconds_left == 0.0


def test_workers_report_while_the_rate_is_asked_for():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        names = [[f"{worker}/{number}" for number in range(2000)] for worker in range(4)]
        pace = Throughput({name: 1 for each in names for name in each})
        with ThreadPoolExecutor(4) as workers:
            running = [workers.submit(lambda mine: [pace.update(name, 1, 1) for name in mine], mine) for mine in names]
            while not all(each.done() for each in running):
                assert pace.rate >= 0 and pace.in_words("images") is not None
        assert pace.seconds_left == 0
    finally:
        sys.setswitchinterval(before)
