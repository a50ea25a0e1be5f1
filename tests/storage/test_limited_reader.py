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


@pytest.fixture
def expanding(tmp_path: Path) -> Path:
    """A table of 600,000 texts in some kilobytes."""
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 600_000, pa.int32()), pa.array(["x" * 2000]))
    write_table(pa.table({"text": texts}), tmp_path / "expands.parquet")
    assert (tmp_path / "expands.parquet").stat().st_size < 10**5
    return tmp_path / "expands.parquet"


def test_a_table_that_expands_is_refused_and_the_next_one_is_read(
    reader: LimitedReader, whole: Path, expanding: Path
) -> None:
    with pytest.raises(FatalError, match=r"^expands\.parquet can't be read \(out of memory\)$"):
        reader.require_readable(expanding)
    reader.require_readable(whole)
    with LimitedReader(size=2**34) as larger:
        larger.require_readable(expanding)


def test_a_table_that_takes_too_long_is_refused(expanding: Path) -> None:
    with LimitedReader(seconds=0.01, size=2**34) as reader:
        for _ in range(2):
            with pytest.raises(
                FatalError, match=r"takes more than 0\.01 s or 17,179,869,184 bytes .*; exit code -27\)$"
            ):
                reader.require_readable(expanding)


@pytest.mark.parametrize("data", [b"", b"no table", b"PAR1" + bytes(100) + b"PAR1"])
def test_what_is_no_table_is_told(data: bytes, reader: LimitedReader, whole: Path) -> None:
    path = whole.with_name("torn.parquet")
    path.write_bytes(data)
    with pytest.raises(FatalError, match=r"^torn\.parquet can't be read \(.{5,200}\)$"):
        reader.require_readable(path)
    with pytest.raises(FatalError, match=r"^gone\.parquet can't be read \(.*\)$"):
        reader.require_readable(whole.with_name("gone.parquet"))
    reader.require_readable(whole)


def test_a_table_at_which_the_process_dies_costs_itself(reader: LimitedReader, whole: Path) -> None:
    reader.require_readable(whole)
    (process,) = _started()
    process.send_signal(signal.SIGSEGV)
    while process.status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    said = r"can't be read \(it takes more than 10 s or 1,073,741,824 bytes of memory; exit code -11\)$"
    with pytest.raises(FatalError, match=said):
        reader.require_readable(whole)
    reader.require_readable(whole)
