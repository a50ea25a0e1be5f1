"""Two processes that need the same artifact make it once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

from toy_chain import First, carry, first_item

from pipeline.runtime.execute import execute
from pipeline.runtime.settings import Settings
from pipeline.runtime.stage import Inputs, Output, ReportProgress
from storage.local_store import LocalStore


def test_whoever_waited_for_another_takes_what_that_one_made(tmp_path: Path) -> None:
    store, began, waited = LocalStore(tmp_path), Event(), Event()
    runs: list[str] = []

    class Slow(First):
        def run(self, inputs: Inputs, work: Path, report: ReportProgress) -> Output:
            runs.append("run")
            began.set()
            assert waited.wait(20)
            return super().run(inputs, work, report)

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(carry, Slow, first_item(), store)
        assert began.wait(20)
        second = execute(Slow(Settings()), first_item(), store, lambda done, total, note="": waited.set())
    assert (second.key, second.cached, runs) == (first.result(), True, ["run"])
