"""Every crash point of a commit: wherever it stops or fails, the store holds whole artifacts only, and the next attempt
ends with the bytes of an undisturbed one."""

from __future__ import annotations

import errno
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pytest
from faulty_disk import Died, FaultyDisk, Stop

from pipeline.settings import Settings
from pipeline.stage import Inputs, Output, Rejected, Report, Stage
from pipeline.work import WorkItem, carry_out
from storage.damage import find_damage
from storage.disk import Disk
from storage.errors import PipelineError, Terminal, Transient
from storage.keys import KeyTerms
from storage.runs import Run
from storage.store import Store

SCHEMA = pa.schema([("image_id", pa.int64())])
STOPS: tuple[Stop, ...] = ("stop", "torn write", "power cut, names lost", "power cut, bytes lost")
ERRORS: dict[int, type[PipelineError]] = {
    errno.ENOSPC: Terminal, errno.EACCES: Terminal, errno.EROFS: Terminal, errno.EIO: Transient,
}  # fmt: skip


class First(Stage):
    """A table, a file beside it, a row in quarantine."""

    name = "first"
    version = 1
    writes = "images"
    schema = SCHEMA

    def run(self, inputs: Inputs, work: Path, report: Report) -> Output:
        (work / "beside.bin").write_bytes(b"beside" * 100)
        table = pa.table({"image_id": inputs.image_ids}, schema=SCHEMA)
        return Output(table, {"beside.bin": work / "beside.bin"}, [Rejected(9, "unloved")])


class Second(Stage):
    """Twice what the first stage wrote; over the whole set, so it works in a scratch folder."""

    name = "second"
    version = 1
    reads = ("images",)
    writes = "doubles"
    schema = SCHEMA
    whole = True

    def run(self, inputs: Inputs, work: Path, report: Report) -> Output:
        ids = [2 * row["image_id"] for row in inputs.table("images").to_pylist()]
        return Output(pa.table({"image_id": ids}, schema=SCHEMA))


def _run(store: Store) -> None:
    """Two stages, each recorded once it is done: a small chain."""
    run = Run(store, "small")
    first = WorkItem("first", "toys/0000", KeyTerms("first", 1, {}, {}), {}, (1, 2, 3))
    run.record("first", "first", {"toys/0000": _carry_out(First, first, store)})
    inputs = {"images": (store.folder("first", first.key),)}
    second = WorkItem("second", "all", KeyTerms("second", 1, {}, {"images": ["c"]}), inputs)
    run.record("second", "second", {"all": _carry_out(Second, second, store)})


def _carry_out(stage: type[Stage], item: WorkItem, store: Store) -> str:
    return carry_out(stage(Settings()), item, store, lambda done, total, note="": None).key


def _bytes(root: Path) -> dict[str, Any]:
    """All data files and runs, byte by byte; of manifests the terms and files, since seconds differ."""
    store, found = Store(root), {}
    for stage in store.stages():
        for artifact in store.artifacts(stage):
            manifest = artifact.manifest
            found[f"{stage}/{artifact.key}"] = (manifest.terms, manifest.upstream, manifest.files)
            for name in manifest.files:
                found[f"{stage}/{artifact.key}/{name}"] = artifact.file(name).read_bytes()
    for path in (root / "runs").rglob("*"):
        if path.is_file():
            found[path.name] = path.read_bytes()
    return found


def _assert_valid_prefix(root: Path, whole: dict[str, Any]) -> None:
    """Whatever a reader can see is whole, and is what an undisturbed run would have made."""
    assert [damage for damage in find_damage(Store(root)) if damage is not None] == []
    assert _bytes(root).items() <= whole.items()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What an undisturbed run leaves."""
    root = tmp_path_factory.mktemp("undisturbed")
    _run(Store(root))
    return _bytes(root)


@pytest.fixture(scope="module")
def operations(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The disk operations of an undisturbed run."""
    root = tmp_path_factory.mktemp("counted")
    disk = FaultyDisk(root, 0, "stop")
    Store(root)
    _run(Store(root, disk))
    return disk.done


class NoSync(Disk):
    """A disk that need not outlive the test."""

    def sync_file(self, path: Path) -> None: ...
    def sync_folder(self, path: Path) -> None: ...


def test_the_crash_points_are_all_of_a_commit(operations: list[str]) -> None:
    assert {"write", "sync_file", "sync_folder", "rename", "make", "remove", "remove_tree"} == set(operations)
    assert len(operations) > 50


@pytest.mark.parametrize("fault", STOPS[2:])
def test_what_was_committed_outlives_a_power_cut(fault: Stop, whole: dict[str, Any], tmp_path: Path) -> None:
    Store(tmp_path)
    disk = FaultyDisk(tmp_path, 0, fault)
    _run(Store(tmp_path, disk))
    disk.cut_power()
    assert _bytes(tmp_path) == whole


@pytest.mark.parametrize("fault", STOPS)
def test_a_crash_anywhere_leaves_a_valid_prefix(
    fault: Stop, operations: list[str], whole: dict[str, Any], tmp_path: Path
) -> None:
    for at in range(1, len(operations) + 1):
        root = tmp_path / str(at)
        Store(root)
        disk = FaultyDisk(root, at, fault)
        with pytest.raises(Died):
            _run(Store(root, disk))
        disk.cut_power()
        _assert_valid_prefix(root, whole)
        store = Store(root, NoSync())
        store.sweep()
        _run(store)
        assert _bytes(root) == whole, f"after {fault} at operation {at} ({operations[at - 1]})"
        left = [path.name for path in (root / "pending").glob("[!.]*") if not path.name.startswith("scratch")]
        assert left == [], f"after {fault} at operation {at} ({operations[at - 1]})"


@pytest.mark.parametrize("code", ERRORS, ids=lambda code: errno.errorcode[code])
def test_an_error_anywhere_is_told_and_leaves_a_valid_prefix(
    code: int, operations: list[str], whole: dict[str, Any], tmp_path: Path
) -> None:
    told = 0
    for at in range(1, len(operations) + 1):
        root = tmp_path / str(at)
        Store(root)
        try:
            _run(Store(root, FaultyDisk(root, at, code)))
        except PipelineError as error:
            assert type(error) is ERRORS[code] and str(root) in str(error)
            told += 1
        _assert_valid_prefix(root, whole)
        store = Store(root, NoSync())
        store.sweep()
        _run(store)
        assert _bytes(root) == whole, f"after {errno.errorcode[code]} at operation {at} ({operations[at - 1]})"
    assert told > len(operations) // 2


class Unclaimed(Store):
    """A store whose claims hold nobody back, as between machines."""

    @contextmanager
    def claim(self, key: str, waiting: Callable[[], None]) -> Iterator[None]:
        yield


class Counted(First):
    """Notes each run, and gives the others time to come."""

    runs: ClassVar[list[str]] = []
    together = threading.Barrier(4)
    patience: ClassVar[float] = 20

    def run(self, inputs: Inputs, work: Path, report: Report) -> Output:
        self.runs.append(inputs.partition)
        with suppress(threading.BrokenBarrierError):
            self.together.wait(self.patience)
        return super().run(inputs, work, report)


@pytest.mark.parametrize("kind", [Store, Unclaimed])
def test_two_writers_of_one_key_are_harmless(kind: type[Store], whole: dict[str, Any], tmp_path: Path) -> None:
    Counted.runs.clear()
    Counted.together.reset()
    Counted.patience = 0.2 if kind is Store else 20
    item = WorkItem("first", "toys/0000", KeyTerms("first", 1, {}, {}), {}, (1, 2, 3))
    keys: list[str] = []
    writers = [
        threading.Thread(target=lambda: keys.append(_carry_out(Counted, item, kind(tmp_path)))) for _ in range(4)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert keys == [item.key] * 4
    assert len(Counted.runs) == (1 if kind is Store else 4), "claims spare the work, but the bytes don't need them"
    assert _bytes(tmp_path).items() <= whole.items()
    assert list((tmp_path / "pending").glob("[!.]*")) == []


def test_the_claim_of_a_killed_process_holds_nobody_back(whole: dict[str, Any], tmp_path: Path) -> None:
    item = WorkItem("first", "toys/0000", KeyTerms("first", 1, {}, {}), {}, (1, 2, 3))
    code = (
        "import sys, time; from pathlib import Path; from storage.store import Store\n"
        "with Store(Path(sys.argv[1])).claim(sys.argv[2], print): print('claimed', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(tmp_path), item.key]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"claimed\n"
        kill = threading.Timer(0.3, holder.kill)
        kill.start()
        said: list[str] = []
        stage = First(Settings())
        carry_out(stage, item, Store(tmp_path), lambda done, total, note="": said.append(note))
    assert said == ["another run makes it"]
    assert _bytes(tmp_path).items() <= whole.items()
