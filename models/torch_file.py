"""Reads untrusted files of torch.save without running any code in them."""

from __future__ import annotations

import argparse
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from models.weights_file import WeightsError

_UNSUPPORTED = re.compile(r"(?:GLOBAL|global:?) (?!GLOBAL)([\w.]+)")


def read_torch_file(path: Path) -> Any:
    """Returns the content of a file of torch.save: tensors, plain values and argparse.Namespace.

    Values of a zip are mapped into memory, not read. Raises `WeightsError` that names the file, and any code in it.
    """
    is_zip = zipfile.is_zipfile(path)
    try:
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected pickle protocol|TypedStorage is deprecated")
            if is_zip:
                _check_records(path)
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
    """Checks the zip's records against their checksums and lengths, which torch does not do."""
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
