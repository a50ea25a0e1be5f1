"""Reads files of torch.save that anyone may have written: no code in them is run, and no size in them is trusted."""

from __future__ import annotations

import argparse
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, ClassVar

import torch

from models.weights_file import WeightsError

_UNSUPPORTED = re.compile(r"(?:GLOBAL|global:?) (?!GLOBAL)([\w.]+)")
_PICKLES_OF_OLD_FILES = 4
"""Magic number, version, system and content: what torch wrote before 1.6, each as a pickle, with the values behind
them."""


def read_torch_file(path: Path) -> Any:
    """The content of a file of torch.save: tensors, plain values and argparse.Namespace.

    Values of a zip are mapped into memory, not read. Raises `WeightsError` that names the file, and the code in it if
    any.
    """
    is_zip = zipfile.is_zipfile(path)
    try:
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected pickle protocol|TypedStorage is deprecated")
            (_check_records if is_zip else _check_old)(path)
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except WeightsError:
        raise
    except Exception as error:  # a damaged or hostile file may fail in any way
        if named := _UNSUPPORTED.search(str(error)):
            raise WeightsError(
                f"{path}: contains {named[1]}, which is code, not weights; none of it was run. Only tensors, plain "
                "values and argparse.Namespace are allowed"
            ) from error
        # torch's own messages advise to load such files with weights_only=False, which would run their code.
        reason = f" ({error.strerror})" if isinstance(error, OSError) and error.strerror else ""
        raise WeightsError(f"{path}: not a readable PyTorch checkpoint, perhaps truncated{reason}") from error


def _check_records(path: Path) -> None:
    """Compares checksums and lengths of the zip's records with what is there, which torch does not."""
    with zipfile.ZipFile(path) as packed:
        records = packed.infolist()
        if any(record.compress_type != zipfile.ZIP_STORED for record in records):
            raise WeightsError(
                f"{path}: not a readable PyTorch checkpoint: its records are compressed, which torch never does"
            )
        if sum(record.file_size for record in records) > path.stat().st_size:
            raise WeightsError(f"{path}: not a readable PyTorch checkpoint: its records are longer than the file")
        if (damaged := packed.testzip()) is not None:
            raise WeightsError(
                f"{path}: not a readable PyTorch checkpoint: {damaged} does not match its checksum; copy it again"
            )
        sizes = {record.filename.partition("/")[2]: record.file_size for record in records}
        for content in (record for record in records if record.filename.endswith("/data.pkl")):
            with packed.open(content) as file:
                for key, size in _storages(file, 1):
                    if sizes.get(f"data/{key}") != size:
                        raise WeightsError(
                            f"{path}: not a readable PyTorch checkpoint: storage {key!r} claims {size:,} bytes, but "
                            f"the file has {sizes.get(f'data/{key}', 0):,}"
                        )


def _check_old(path: Path) -> None:
    """Compares the storages that the pickles of an old file claim with its length, before torch allocates them."""
    with path.open("rb") as file:
        claimed = sum(max(size, 0) for size in dict(_storages(file, _PICKLES_OF_OLD_FILES)).values())
    if claimed > path.stat().st_size:
        raise WeightsError(
            f"{path}: not a readable PyTorch checkpoint: its storages claim {claimed:,} bytes, more than the file has"
        )


class _Inert:
    """Stands for whatever a pickle names: creating it, calling it or setting its state does nothing."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __call__(self, *_: Any, **__: Any) -> _Inert:
        return self

    def __setstate__(self, _: Any) -> None:
        pass

    def __setitem__(self, _: Any, __: Any) -> None:
        pass


# In Python, because the unpickler in C reserves memory for the largest id that a file names.
class _Scanner(pickle._Unpickler):
    """Goes through a pickle without importing what it names, and records the storages."""

    dispatch: ClassVar = {
        code: read for code, read in pickle._Unpickler.dispatch.items() if code != pickle.BYTEARRAY8[0]
    }
    """Without the operation that allocates what a file claims. torch reads no file that has it."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file)
        self.storages: list[tuple[str, int]] = []

    def find_class(self, module: str, name: str) -> Any:
        if name == "bytearray" or name.endswith("Tensor"):  # torch would call these with the size of what they allocate
            raise pickle.UnpicklingError(f"GLOBAL {module}.{name}")
        return type(name, (_Inert,), {})

    def persistent_load(self, named: Any) -> _Inert:
        _, kind, key, _, values, *_ = named
        self.storages.append((key, values * getattr(torch, kind.__name__).dtype.itemsize))
        return _Inert()


def _storages(file: IO[bytes], pickles: int) -> Iterator[tuple[str, int]]:
    """Key and bytes of each storage that the next pickles of a file claim."""
    for _ in range(pickles):
        scanner = _Scanner(file)
        try:
            scanner.load()
        except EOFError:  # torch says what is missing
            return
        yield from scanner.storages
