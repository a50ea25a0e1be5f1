"""The checkpoints of a training run on disk: `step-00000500/` and so on, each complete once its name exists."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

import xxhash

from pipeline.training.config import RESUMES_FROM
from storage.atomic import write_atomic
from storage.disk import LOCAL
from storage.errors import FatalError
from storage.json_files import read_json, sealed_json

FORMAT = 3
RECORD = "checkpoint.json"
"""File with the step, the other files with their sizes and checksums, and the state that is not a tensor."""
_NAME = re.compile(r"step-(\d{8,})")
_CHUNK = 2**24
_SECONDS_TO_WAIT = 120
"""How long rank 0 waits for the parts of the others."""


class CheckpointFolder:
    """The checkpoints below one folder. A folder is only trusted with its record and the checksums that it states."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, step: int) -> Path:
        """Returns the folder of the checkpoint after a step."""
        return self._folder / f"step-{step:08d}"

    def aside(self, step: int) -> Path:
        """Returns the folder in which that checkpoint is written before it gets its name."""
        return self._folder / f".step-{step:08d}.new"

    def steps(self) -> list[int]:
        """Returns the steps that have a checkpoint, newest first, without looking into them."""
        if not self._folder.is_dir():
            return []
        names = [_NAME.fullmatch(path.name) for path in self._folder.iterdir() if path.is_dir()]
        return sorted((int(match[1]) for match in names if match), reverse=True)

    def newest(self) -> int:
        """Returns the step of the newest checkpoint; 0 without one."""
        return max(self.steps(), default=0)

    def record(self, step: int) -> dict[str, Any]:
        """Returns the record of a checkpoint. Raises ValueError that says what is wrong when it is damaged.

        Every byte is read and compared with its checksum.
        """
        path = self.path(step)
        try:
            record: dict[str, Any] = read_json(path / RECORD, dict[str, Any])
            files = {str(name): (int(of["bytes"]), str(of["check"])) for name, of in record["files"].items()}
        except (OSError, FatalError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{RECORD} can't be read ({error})") from error
        for name, (size, check) in files.items():
            file = path / name
            if "/" in name or not file.is_file():
                raise ValueError(f"{name} is missing")
            if file.stat().st_size != size:
                raise ValueError(f"{name} has {file.stat().st_size} bytes instead of {size}")
            if checksum(file) != check:
                raise ValueError(f"{name} has changed since it was written")
        return record

    def set_aside(self, step: int) -> None:
        """Renames a damaged checkpoint, so that it no longer counts as the newest. It is kept for people to look at."""
        damaged = self._folder / f"damaged-step-{step:08d}"
        shutil.rmtree(damaged, ignore_errors=True)
        self.path(step).rename(damaged)

    def discard_unfinished(self) -> None:
        """Removes what an interrupted process was writing."""
        for path in self._folder.glob(".step-*.new"):
            shutil.rmtree(path, ignore_errors=True)

    def discard(self, step: int) -> None:
        """Removes a checkpoint. It is renamed first, so that no half of it is ever left under its name."""
        # A name that `discard_unfinished` finds
        aside = self._folder / f".step-{step:08d}.old.new"
        shutil.rmtree(aside, ignore_errors=True)
        self.path(step).rename(aside)
        shutil.rmtree(aside, ignore_errors=True)

    def prune(self, newest: int, every: int | None, spared: int | None = None) -> None:
        """Removes all but the `newest` ones, those at multiples of `every`, and the one that is `spared`."""
        for step in self.steps()[newest:]:
            if step != spared and not (every and step % every == 0):
                self.discard(step)

    def write_part(self, step: int, rank: int, parts: int, data: memoryview) -> None:
        """Writes this process's file, one of `parts` files. Raises OSError."""
        aside = self.aside(step)
        aside.mkdir(parents=True, exist_ok=True)
        name = _name(rank, parts)
        check = _write(aside / name, data)
        done = aside / f"{name}.json"
        # Renamed, so that rank 0 never reads half of it
        done.with_suffix(".new").write_text(json.dumps({"bytes": len(data), "check": check}))
        done.with_suffix(".new").rename(done)

    def give_up(self, step: int, rank: int, parts: int) -> None:
        """Marks a part as failed. Rank 0 then removes the others instead of waiting."""
        aside = self.aside(step)
        with suppress(OSError):
            if rank == 0:
                shutil.rmtree(aside, ignore_errors=True)
            else:
                aside.mkdir(parents=True, exist_ok=True)
                (aside / f"{_name(rank, parts)}.failed").touch()

    def complete(self, step: int, parts: int, about: dict[str, Any], beside: Collection[str]) -> None:
        """Waits for the parts of all processes and gives the checkpoint its name.

        `about`: what the record has besides the files; `beside`: other files of the work folder that are needed to
        resume. Raises OSError, and TimeoutError when the part of another process is missing.
        """
        aside = self.aside(step)
        until = time.monotonic() + _SECONDS_TO_WAIT
        while len(done := sorted(aside.glob(f"*-of-{parts:05d}.safetensors.json"))) < parts:
            if any(aside.glob("*.failed")):
                raise FileNotFoundError("another process could not write its part of the checkpoint")
            if time.monotonic() > until:
                raise TimeoutError(f"only {len(done)} of {parts} processes wrote their part of the checkpoint")
            time.sleep(0.02)
        files = {part.name.removesuffix(".json"): json.loads(part.read_text()) for part in done}
        for part in done:
            part.unlink()
        record = {"format": FORMAT, "step": step, "files": files, "about": about}
        (aside / RECORD).write_bytes(sealed_json(record))
        # All that is inside must be on disk before the name is.
        LOCAL.sync_file(aside / RECORD)
        LOCAL.sync_folder(aside)
        if self.path(step).exists():
            self.discard(step)
        aside.rename(self.path(step))
        LOCAL.sync_folder(aside.parent)
        self._point_to(step, beside)

    def _point_to(self, step: int, beside: Collection[str]) -> None:
        """Writes the list of files from which another machine can resume; `beside`: others in the work folder."""
        work = self._folder.parent
        inside = [str(path.relative_to(work)) for path in sorted(self.path(step).iterdir())]
        write_atomic(work / RESUMES_FROM, json.dumps({"files": [*inside, *beside]}).encode())


def _name(rank: int, parts: int) -> str:
    return f"shard-{rank + 1:05d}-of-{parts:05d}.safetensors"


def checksum(file: Path) -> str:
    """Returns the XXH3 checksum of a file, in hexadecimal digits."""
    with file.open("rb") as data:
        return hashlib.file_digest(data, xxhash.xxh3_128).hexdigest()


def _write(path: Path, data: memoryview) -> str:
    """Writes a file that reaches the disk. Returns its checksum."""
    digest = xxhash.xxh3_128()
    with path.open("wb") as file:
        for first in range(0, len(data), _CHUNK):
            digest.update(data[first : first + _CHUNK])
            file.write(data[first : first + _CHUNK])
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()
