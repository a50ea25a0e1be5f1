"""The metrics log keeps each value once, even after an interruption."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.training.metrics_log import MetricsLog


def test_what_is_measured_again_after_a_crash_counts_once(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.write(2, {"loss": 3.0})
    log.write(12, {"loss": 1.0, "held_out_map": 0.5})
    log.rewind(12)
    log.write(12, {"held_out_map": 0.5})
    assert log.table().to_pylist() == [
        {"step": 2, "name": "loss", "value": 3.0},
        {"step": 12, "name": "held_out_map", "value": 0.5},
        {"step": 12, "name": "loss", "value": 1.0},
    ]


def test_what_a_full_disk_did_not_take_is_written_later(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "later" / "metrics.jsonl")
    with pytest.raises(OSError, match="No such file"):
        log.write(1, {"loss": 3.0})
    (tmp_path / "later").mkdir()
    (tmp_path / "later" / "metrics.jsonl").write_text('{"step": 1, "na')
    log.write(1, {"loss": 3.0})
    log.write(2, {"loss": 2.0})
    assert [(row["step"], row["value"]) for row in log.table().to_pylist()] == [(1, 3.0), (2, 2.0)]


def test_rewinding_forgets_later_steps_and_a_torn_line(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.write(4, {"loss": 3.0})
    log.write(8, {"loss": 2.0})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "na')
    log.rewind(4)
    assert [row["step"] for row in log.table().to_pylist()] == [4]
