"""The rate and remaining time that users see of a running step."""

import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline.run.throughput import Throughput


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_speed_and_time_left_follow_from_all_workers() -> None:
    clock = Clock()
    pace = Throughput({"a": 100, "b": 100, "c": 100, "d": 100}, clock)
    pace.update("a", 0, 100)
    assert pace.in_words("images") == ""
    clock.now += 10
    pace.update("a", 50, 100)
    pace.update("b", 50, 100)
    assert (pace.rate, pace.seconds_left) == (10.0, 30.0)
    assert pace.in_words("images") == "10.0 images/s, 0:00:30 left"


def test_loading_and_what_an_earlier_run_did_do_not_count() -> None:
    clock = Clock()
    pace = Throughput({"all": 0}, clock)
    clock.now += 60
    pace.update("all", 400, 500)
    clock.now += 10
    pace.update("all", 420, 500)
    assert pace.in_words("steps") == "2.0 steps/s, 0:00:40 left"
    clock.now += 990
    assert pace.in_words("steps").startswith("0.02 steps/s")


def test_time_left_follows_from_images_and_not_from_partitions() -> None:
    clock = Clock()
    pace = Throughput({"small": 10, "large": 90}, clock)
    pace.update("small", 0, 10)
    clock.now += 10
    pace.finish("small")
    assert pace.in_words("images") == "1.0 images/s, 0:01:30 left"
    assert pace.in_words("images", later=30) == "1.0 images/s, 0:01:30 left, 0:02:00 for the run"


def test_a_committed_partition_counts_whole_even_if_it_told_nothing_more() -> None:
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


def test_workers_report_while_the_rate_is_asked_for() -> None:
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
