"""Tables of strangers are read in a process with limits, which may end at the cost of one table."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pyarrow as pa
import pytest

from storage.errors import FatalError
from storage.limited_reader import LimitedReader
from storage.tables import write_table


@pytest.fixture
def reader() -> Iterator[LimitedReader]:
    with LimitedReader() as reader:
        yield reader


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    write_table(pa.table({"text": ["a man", None], "boxes": [[1.0], None]}), tmp_path / "whole.parquet")
    return tmp_path / "whole.parquet"


def _started() -> list[psutil.Process]:
    return [each for each in psutil.Process().children() if "storage.limited_process" in each.cmdline()]


def test_whole_tables_are_read_in_one_process_that_ends_with_its_reader(whole: Path) -> None:
    with LimitedReader() as reader:
        assert _started() == [], "it starts when it is needed"
        for _ in range(3):
            reader.require_readable(whole)
        (process,) = _started()
    assert not process.is_running()


def test_a_table_that_expands_is_refused_and_the_next_one_is_read(
    reader: LimitedReader, whole: Path, tmp_path: Path
) -> None:
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 600_000, pa.int32()), pa.array(["x" * 2000]))
    write_table(pa.table({"text": texts}), tmp_path / "expands.parquet")
    assert (tmp_path / "expands.parquet").stat().st_size < 10**5
    with pytest.raises(FatalError, match=r"^expands\.parquet can't be read \(more than 1 GiB of memory\)$"):
        reader.require_readable(tmp_path / "expands.parquet")
    reader.require_readable(whole)


@pytest.mark.parametrize("data", [b"", b"no table", b"PAR1" + bytes(100) + b"PAR1"])
def test_what_is_no_table_is_told(data: bytes, reader: LimitedReader, whole: Path) -> None:
    path = whole.with_name("torn.parquet")
    path.write_bytes(data)
    with pytest.raises(FatalError, match=r"^torn\.parquet can't be read \(.{5,200}\)$"):
        reader.require_readable(path)
    with pytest.raises(FatalError, match=r"^gone\.parquet can't be read \(.*\)$"):
        reader.require_readable(whole.with_name("gone.parquet"))
    reader.require_readable(whole)


def test_a_table_that_takes_too_long_or_ends_the_process_costs_itself(reader: LimitedReader, whole: Path) -> None:
    for number in (signal.SIGPROF, signal.SIGSEGV):
        reader.require_readable(whole)
        (process,) = _started()
        process.send_signal(number)
        while process.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)
        said = rf"^whole\.parquet takes more than 1 GiB of memory or 10 s to read \(exit code -{number:d}\)$"
        with pytest.raises(FatalError, match=said):
            reader.require_readable(whole)
    reader.require_readable(whole)


def test_it_has_a_limit_of_processor_time_and_of_memory(reader: LimitedReader, whole: Path) -> None:
    reader.require_readable(whole)
    (process,) = _started()
    begun = process.memory_info().vms
    limits = process.rlimit(psutil.RLIMIT_AS), process.rlimit(psutil.RLIMIT_CORE)
    assert begun < limits[0][0] <= begun + 2**30 and limits[1] == (0, 0)
