"""A process that works on a store until it is done, killed or stopped: what `test_torture.py` starts many of."""

import os
import random
import time
from collections.abc import Mapping
from pathlib import Path

from toy_chain import Counting, First, Second, carry

from pipeline.runtime.execute import WorkItem
from pipeline.runtime.stage import Inputs, Output, ReportProgress
from storage.keys import KeyTerms
from storage.lease import Patience
from storage.local_store import LocalStore
from storage.remote_store import RemoteStore
from storage.runs import Run
from storage.store import Store

PARTITIONS = 6
PATIENCE = Patience(heartbeat=0.1, look=0.02, expiry=0.6)
"""Of a lease. A process that is stopped for longer counts as dead, and works on when it is continued."""
_PAUSE = 0.03


class SlowFirst(First):
    """Takes a moment, in which it can be killed."""

    def run(self, inputs: Inputs, work: Path, report: ReportProgress) -> Output:
        time.sleep(random.uniform(0, _PAUSE))
        return super().run(inputs, work, report)


class Training(Counting):
    """Can be killed between any two steps."""

    def counted(self, number: int) -> None:
        time.sleep(random.uniform(0, _PAUSE))


def open_place(address: str, folder: Path) -> Store:
    """The store at a URL, with this machine's copies in `folder`; or the one in `folder`."""
    return RemoteStore(address, folder, pauses=(0.0, 0.1, 0.2), patience=PATIENCE) if address else LocalStore(folder)


def live(address: str, folder: Path, environment: Mapping[str, str]) -> None:
    """Make all artifacts that are still missing, and record the run."""
    os.environ.update(environment)
    random.seed()  # forked from one process, all would draw the same
    work_through(open_place(address, folder))


def work_through(store: Store) -> None:
    """Execute all items of a small chain in a random order, then record what it made."""
    store.sweep()
    items = [
        WorkItem("first", f"toys/{n:04d}", KeyTerms("first", 1, {"n": n}, {}), {}, (n, n + 1))
        for n in range(PARTITIONS)
    ]
    run = Run(store, "small")
    keys = {item.partition: carry(SlowFirst, item, store) for item in random.sample(items, len(items))}
    run.record("first", "first", dict(sorted(keys.items())))
    inputs = {"images": tuple(store.folder("first", item.key) for item in items)}
    for stage in (Second, Training):
        item = WorkItem(stage.name, "all", KeyTerms(stage.name, 1, {}, {"images": ["c"]}), inputs)
        run.record(stage.name, stage.name, {"all": carry(stage, item, store)})
