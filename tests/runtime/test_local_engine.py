"""The local engine opens a stage once per worker, survives a worker's death, and passes errors on unchanged."""

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import as_completed
from dataclasses import replace
from multiprocessing import forkserver
from pathlib import Path
from threading import Event, Thread, Timer, main_thread

import psutil
import pytest
from small_stages import CountStage, count_call, count_items

from pipeline.runtime import processes
from pipeline.runtime.engines.engine import STOP_SECONDS, Engine, WorkerDied, WorkerHandle
from pipeline.runtime.engines.local import LocalEngine
from pipeline.runtime.execute import Record, WorkItem
from pipeline.runtime.stage import Inputs
from storage.digests import digest_file
from storage.errors import FatalError, RetryableError
from storage.keys import KeyTerms
from storage.local_store import LocalStore


@pytest.fixture
def own_parent(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Lets workers be forks of a process that no other test uses. It imports almost nothing and so starts at once."""
    server = forkserver.ForkServer()
    for name in ("ensure_running", "connect_to_new_process", "set_forkserver_preload", "get_inherited_fds"):
        monkeypatch.setattr(forkserver, name, getattr(server, name))
    monkeypatch.setattr(processes, "_PRELOADED", [])
    yield
    server._stop()


def test_items_are_committed_and_the_stage_is_opened_once_a_worker(tmp_path):
    seen: list[tuple[int, int]] = []
    with LocalEngine(count_call(tmp_path), 2, lambda item, done, total, note: seen.append((done, total))) as engine:
        records = [future.result() for future in [engine.submit(item) for item in count_items(6)]]
    store = LocalStore(tmp_path / "store")
    workers = set()
    for record, item in zip(records, count_items(6), strict=True):
        artifact = store.find("count", item.key)
        assert artifact is not None and record.key == item.key and record.rows_out == 2
        workers |= set(artifact.table("counts")["process"].to_pylist())
    assert os.getpid() not in workers and len(workers) <= 2
    assert len(list(tmp_path.glob("open-*"))) == len(workers)
    assert (2, 2) in seen


def test_a_worker_computes_with_one_thread_from_its_first_library_on(tmp_path, own_parent):
    before = dict(os.environ)
    with LocalEngine(count_call(tmp_path), 1) as engine:
        record = engine.submit(count_items(1)[0]).result()
        artifact = LocalStore(tmp_path / "store").find("count", record.key)
        (process,) = set(artifact.table("counts")["process"].to_pylist())
        began_with = psutil.Process(process).environ()
    assert began_with["OPENBLAS_NUM_THREADS"] == began_with["OMP_NUM_THREADS"] == "1"
    assert dict(os.environ) == before


def test_a_worker_has_the_environment_of_its_start(tmp_path, monkeypatch):
    for home in (tmp_path / "one", tmp_path / "other"):
        home.mkdir()
        monkeypatch.setenv("HOME", str(home))
        with LocalEngine(count_call(home), 1) as engine:
            engine.submit(count_items(1)[0]).result()
        (mark,) = home.glob("open-*")
        assert mark.read_text() == str(home)


def test_a_worker_that_dies_is_replaced_and_its_item_tried_again(tmp_path):
    with LocalEngine(count_call(tmp_path, die_at=10), 1) as engine:
        records = [future.result() for future in [engine.submit(item) for item in count_items(3)]]
    assert [record.partition for record in records] == ["set/0000", "set/0001", "set/0002"]


class DeadlyStage(CountStage):
    """Kills each process that opens it."""

    def open(self, uses: Inputs) -> None:
        super().open(uses)
        os.kill(os.getpid(), signal.SIGKILL)


def test_an_item_whose_workers_all_die_is_given_up_and_says_what_to_do(tmp_path):
    with LocalEngine(count_call(tmp_path, DeadlyStage), 1) as engine:
        futures = [engine.submit(item) for item in count_items(2)]
        for number, future in enumerate(futures):
            with pytest.raises(RetryableError, match=rf"set/000{number}: its worker died 3 times .*-9"):
                future.result(timeout=120)
    assert len(list(tmp_path.glob("open-*"))) == 6


class LoadingStage(CountStage):
    """Loads weights, which another process replaces."""

    def files(self) -> dict[str, Path]:
        weights = self.settings.marks / "weights"
        return {"model": weights} if weights.is_file() else {}


def test_weights_that_were_replaced_since_the_plan_make_nothing_under_the_key_of_the_former_ones(tmp_path):
    weights = tmp_path / "weights"
    weights.write_text("former")
    terms = KeyTerms("count", 1, {}, {}, {"model": digest_file(weights)})
    item, call = WorkItem("count", "set/0000", terms, {}, (1,)), replace(count_call(tmp_path), stage=LoadingStage)
    weights.write_text("newer!")
    with LocalEngine(call, 1) as engine:
        with pytest.raises(FatalError, match=rf"count: {weights} \(model\) .* was replaced since"):
            engine.submit(item).result()
        weights.unlink()
        with pytest.raises(FatalError, match=r"count: a file \(model\) .* was replaced since"):
            engine.submit(item).result()
        assert LocalStore(tmp_path / "store").find("count", item.key) is None
        weights.write_text("former")
        assert engine.submit(item).result().rows_out == 1


@pytest.mark.parametrize("version, settings, differing", [
    (1, {"model_version": "1.0"}, r"model_version: 1\.0 → unset"), (2, {}, "version: 2 → 1"),
])  # fmt: skip
def test_a_worker_with_another_version_of_a_package_makes_nothing_under_the_planned_key(
    tmp_path, version, settings, differing
):
    item = WorkItem("count", "set/0000", KeyTerms("count", version, settings, {}), {}, (1,))
    refused = pytest.raises(FatalError, match=f"count: {differing} on .*: a package there has another version")
    with LocalEngine(count_call(tmp_path), 1) as engine, refused:
        engine.submit(item).result()
    assert LocalStore(tmp_path / "store").find("count", item.key) is None


def test_the_process_that_workers_are_forked_from_may_die(tmp_path, own_parent):
    with LocalEngine(count_call(tmp_path, die_at=10), 1) as engine:
        first, second, third = count_items(3)
        made = LocalStore(tmp_path / "store").find("count", engine.submit(first).result().key)
        origin = psutil.Process(made.table("counts")["process"][0].as_py()).parent()
        assert "forkserver" in " ".join(origin.cmdline()), "not this process"
        origin.kill()
        while origin.status() != psutil.STATUS_ZOMBIE:  # its exit code is left to multiprocessing
            time.sleep(0.01)
        assert [engine.submit(item).result().partition for item in (second, third)] == ["set/0001", "set/0002"]


def test_workers_that_can_not_be_started_fail_their_items_with_the_reason(tmp_path, own_parent, monkeypatch):
    (tmp_path / "deadly.py").write_text("import os\nos._exit(1)\n")
    monkeypatch.syspath_prepend(tmp_path)
    # If the process dies late, multiprocessing starts it again by itself, without our paths.
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(processes, "_PRELOADED", ["deadly"])
    with LocalEngine(count_call(tmp_path), 1) as engine:
        futures = [engine.submit(item) for item in count_items(3)]
        for future in futures:
            with pytest.raises(FatalError, match="workers can't be started: the process that it is forked from has"):
                future.result(timeout=120)


def test_errors_keep_their_type_and_words(tmp_path):
    with LocalEngine(count_call(tmp_path, fail_at=0, fail_once_at=10), 1) as engine:
        first, second, third = [engine.submit(item) for item in count_items(3)]
        with pytest.raises(FatalError, match="image 0 is impossible"):
            first.result()
        with pytest.raises(RetryableError, match="did not answer"):
            second.result()
        assert third.result().rows_out == 2


def test_after_an_interrupt_nobody_waits_for_what_was_dropped(tmp_path):
    with pytest.raises(KeyboardInterrupt), LocalEngine(count_call(tmp_path, wait=True), 1) as engine:
        futures = [engine.submit(item) for item in count_items(3)]
        raise KeyboardInterrupt
    for future in as_completed([*futures, engine.submit(count_items(4)[3])], timeout=20):
        with pytest.raises(RetryableError, match="stopped"):
            future.result()


def test_an_interrupt_while_an_engine_waits_for_its_items_ends_its_workers(tmp_path):
    with pytest.raises(KeyboardInterrupt), LocalEngine(count_call(tmp_path, wait=True), 1) as engine:
        future = engine.submit(count_items(1)[0])
        Timer(1, signal.pthread_kill, (main_thread().ident, signal.SIGINT)).start()
    with pytest.raises(RetryableError, match="stopped"):
        future.result(timeout=20)


class _Late(WorkerHandle):
    """A worker that takes a moment to end."""

    def __init__(self) -> None:
        self.killed, self.has_ended = Event(), False

    def execute(self, item: WorkItem, progress: object) -> Record:
        self.killed.wait()
        time.sleep(0.5)
        self.has_ended = True
        raise WorkerDied("killed")

    def kill(self) -> None:
        self.killed.set()


class _LateEngine(Engine):
    def __init__(self) -> None:
        super().__init__(1, least=1)
        self.worker = _Late()

    def _start(self, number: int) -> WorkerHandle:
        return self.worker


def test_an_interrupted_engine_waits_for_its_threads():
    with pytest.raises(KeyboardInterrupt), _LateEngine() as engine:
        engine.submit(count_items(1)[0])
        Timer(0.5, signal.pthread_kill, (main_thread().ident, signal.SIGINT)).start()
    assert engine.worker.has_ended


def test_an_interrupt_while_an_engine_starts_ends_its_workers(monkeypatch):
    start, engine = Thread.start, _LateEngine()
    monkeypatch.setattr(Thread, "start", lambda thread: (start(thread), signal.raise_signal(signal.SIGINT)))
    with pytest.raises(KeyboardInterrupt), engine:
        pass
    with pytest.raises(RetryableError, match="stopped"):
        engine.submit(count_items(1)[0]).result(timeout=5)


def test_an_engine_does_not_wait_for_a_thread_that_can_not_be_started(monkeypatch):
    def refuse(thread: Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(Thread, "start", refuse)
    began = time.monotonic()
    with pytest.raises(RuntimeError, match="can't start"), _LateEngine():
        pass
    assert time.monotonic() - began < STOP_SECONDS
