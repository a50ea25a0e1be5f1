"""Every crash point of a commit: wherever it stops or fails, the store holds only whole artifacts, and the next attempt
gives the bytes of an undisturbed one."""

import errno
import platform
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import cycle
from pathlib import Path
from typing import Any, ClassVar

import pytest
from faulty_disk import Died, FaultyDisk, NoSync, Stop
from toy_chain import First, assert_valid_prefix, bytes_of, first_item, run_chain

from pipeline.runtime.execute import Record, execute
from pipeline.runtime.settings import Settings
from pipeline.runtime.stage import Inputs, Output, ReportProgress
from storage.errors import FatalError, PipelineError, RetryableError
from storage.local_store import LocalStore

STOPS: tuple[Stop, ...] = ("torn write", "power cut, names lost", "power cut, bytes lost")
ERRORS: dict[int, type[PipelineError]] = {
    errno.ENOSPC: FatalError, errno.EACCES: FatalError, errno.EROFS: FatalError, errno.EIO: RetryableError,
}  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The bytes that an undisturbed run leaves."""
    root = tmp_path_factory.mktemp("undisturbed")
    run_chain(LocalStore(root))
    return bytes_of(LocalStore(root))


@pytest.fixture(scope="module")
def operations(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The system calls of an undisturbed run that change the disk."""
    root = tmp_path_factory.mktemp("counted")
    disk = FaultyDisk(root, 0, "stop")
    LocalStore(root)
    run_chain(LocalStore(root, disk))
    return disk.done


def test_the_crash_points_are_all_of_a_commit(operations):
    assert {"create", "write", "fsync", "fsync folder", "rename", "mkdir", "unlink", "rmtree"} == set(operations)
    assert len(operations) > 50


def test_an_artifact_holds_what_its_manifest_names_and_no_more(tmp_path):
    store = LocalStore(tmp_path)
    run_chain(store)
    for stage in ("first", "second"):
        for artifact in store.artifacts(stage):
            assert {path.name for path in artifact.folder.iterdir()} == {*artifact.manifest.files, "manifest.json"}


@pytest.mark.parametrize("fault", STOPS[1:])
def test_what_was_committed_outlives_a_power_cut(fault, whole, tmp_path):
    LocalStore(tmp_path)
    disk = FaultyDisk(tmp_path, 0, fault)
    run_chain(LocalStore(tmp_path, disk))
    disk.cut_power()
    assert bytes_of(LocalStore(tmp_path)) == whole


def _assert_goes_on(root: Path, whole: dict[str, Any], after: str) -> None:
    """Assert that a store holds a valid prefix, and that the next run completes it."""
    assert_valid_prefix(LocalStore(root), whole)
    store = LocalStore(root, NoSync())
    store.sweep()
    run_chain(store)
    assert bytes_of(LocalStore(root)) == whole, after


@pytest.mark.parametrize("fault", STOPS)
def test_a_crash_anywhere_leaves_a_valid_prefix(fault, operations, whole, tmp_path):
    for at in range(1, len(operations) + 1):
        root = tmp_path / str(at)
        LocalStore(root)
        disk = FaultyDisk(root, at, fault)
        with pytest.raises(Died):
            run_chain(LocalStore(root, disk))
        disk.cut_power()
        _assert_goes_on(root, whole, f"after {fault} at operation {at} ({operations[at - 1]})")
        left = [path.name for path in (root / "pending").glob("[!.]*") if not path.name.startswith("scratch")]
        assert left == [], f"after {fault} at operation {at} ({operations[at - 1]})"


def test_an_error_anywhere_is_reported_and_leaves_a_valid_prefix(operations, whole, tmp_path):
    raised = 0
    for at, code in zip(range(1, len(operations) + 1), cycle(ERRORS)):
        root = tmp_path / str(at)
        LocalStore(root)
        try:
            run_chain(LocalStore(root, FaultyDisk(root, at, code)))
        except PipelineError as error:
            assert type(error) is ERRORS[code] and str(root) in str(error)
            raised += 1
        _assert_goes_on(root, whole, f"after {errno.errorcode[code]} at operation {at} ({operations[at - 1]})")
    assert raised > len(operations) // 2


class Unclaimed(LocalStore):
    """A store whose claims exclude nobody, as between machines."""

    @contextmanager
    def claim(self, key: str, waiting: Callable[[], None]) -> Iterator[None]:
        yield


class Counted(First):
    """Records each run, and gives the other writers time to arrive."""

    runs: ClassVar[list[str]] = []
    together = threading.Barrier(4)
    patience: ClassVar[float] = 20

    def run(self, inputs: Inputs, work: Path, report: ReportProgress) -> Output:
        self.runs.append(inputs.partition)
        with suppress(threading.BrokenBarrierError):
            self.together.wait(self.patience)
        return super().run(inputs, work, report)


@pytest.mark.parametrize("kind", [LocalStore, Unclaimed])
def test_two_writers_of_one_key_are_harmless(kind, whole, tmp_path):
    Counted.runs.clear()
    Counted.together.reset()
    Counted.patience = 0.2 if kind is LocalStore else 20
    item = first_item()
    made: list[Record] = []

    def work() -> None:
        made.append(execute(Counted(Settings()), item, kind(tmp_path), lambda done, total, note="": None))

    writers = [threading.Thread(target=work) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [record.key for record in made] == [item.key] * 4
    assert len(Counted.runs) == (1 if kind is LocalStore else 4), "claims save work, but the bytes don't need them"
    assert sum(not record.cached for record in made) == len(Counted.runs)
    assert bytes_of(LocalStore(tmp_path)).items() <= whole.items()
    assert list((tmp_path / "pending").glob("[!.]*")) == []


def test_the_claim_of_a_killed_process_holds_nobody_back(whole, tmp_path):
    item = first_item()
    code = (
        "import sys, time; from pathlib import Path; from storage.local_store import LocalStore\n"
        "with LocalStore(Path(sys.argv[1])).claim(sys.argv[2], print): print('claimed', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(tmp_path), item.key]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"claimed\n"
        kill = threading.Timer(0.3, holder.kill)
        kill.start()
        notes: list[str] = []
        stage = First(Settings())
        execute(stage, item, LocalStore(tmp_path), lambda done, total, note="": notes.append(note))
    assert notes == [f"another run on {platform.node()} is computing it"]
    assert bytes_of(LocalStore(tmp_path)).items() <= whole.items()
