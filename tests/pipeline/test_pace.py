"""What a user reads of a running step: its speed, and when it will be done."""

from pipeline.pace import Pace


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_speed_and_time_left_follow_from_all_workers() -> None:
    clock = Clock()
    pace = Pace(4, clock)
    assert pace.in_words("images") == ""
    clock.now += 10
    pace.tell("a", 50, 100)
    pace.tell("b", 50, 100)
    assert (pace.rate, pace.seconds_left) == (10.0, 30.0)
    assert pace.in_words("images") == "10.0 images/s, 0:00:30 left"


def test_a_committed_partition_counts_whole_even_if_it_never_told() -> None:
    clock = Clock()
    pace = Pace(2, clock)
    clock.now += 8
    pace.finish("a")
    assert (pace.rate, pace.seconds_left) == (0.0, 8.0)
    pace.tell("b", 3, 10)
    pace.finish("b")
    assert (pace.rate, pace.seconds_left) == (10 / 8, 0.0)
