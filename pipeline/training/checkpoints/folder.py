"""The checkpoints of a training run on disk: `step-00000500/` and so on, each complete from the moment its name exists."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

import xxhash

from pipeline.training.config import RESUMES_FROM
from storage.atomic import write_atomic
from storage.errors import FatalError
from storage.json_files import read_json

FORMAT = 3
RECORD = "checkpoint.json"
"""What a checkpoint holds: its step, the files with sizes and checksums, and the state that is no tensor."""
_NAME = re.compile(r"step-(\d{8,})")
_CHUNK = 2**24


class CheckpointFolder:
    """The checkpoints below one folder. A folder is only trusted with its record and the checksums that it states."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, step: int) -> Path:
        """Returns the folder of the checkpoint after a step."""
        return self._folder / f"step-{step:08d}"

    def aside(self, step: int) -> Path:
        """Returns the folder in which that checkpoint is written."""
        return self._folder / f".step-{step:08d}.new"

    def steps(self) -> list[int]:
        """Returns the steps that have a checkpoint, newest first, without looking into them."""
        if not self._folder.is_dir():
            return []
        found = [_NAME.fullmatch(path.name) for path in self._folder.iterdir() if path.is_dir()]
        return sorted((int(match[1]) for match in found if match), reverse=True)

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
        """Takes the name from a damaged checkpoint, so that none counts it as the newest. It is kept for people to look at."""
        damaged = self._folder / f"damaged-step-{step:08d}"
        shutil.rmtree(damaged, ignore_errors=True)
        self.path(step).rename(damaged)

    def discard_unfinished(self) -> None:
        """Removes what an interrupted process was writing."""
        for path in self._folder.glob(".step-*.new"):
            shutil.rmtree(path, ignore_errors=True)

    def discard(self, step: int) -> None:
        """Removes a checkpoint. Its name goes first, so that no half of it is left under it."""
        aside = self._folder / f".step-{step:08d}.old.new"
        shutil.rmtree(aside, ignore_errors=True)
        self.path(step).rename(aside)
        shutil.rmtree(aside, ignore_errors=True)

    def prune(self, newest: int, every: int | None, spared: Collection[int] = ()) -> None:
        """Removes all but the `newest` ones, those of every so many steps, and those to be spared."""
        for step in self.steps()[newest:]:
            if step not in spared and not (every and step % every == 0):
                self.discard(step)

    def point_to(self, step: int, beside: Collection[str]) -> None:
        """Writes the list of files from which another machine can resume; `beside`: others in the work folder."""
        work = self._folder.parent
        inside = [str(path.relative_to(work)) for path in sorted(self.path(step).iterdir())]
        write_atomic(work / RESUMES_FROM, json.dumps({"files": [*inside, *beside]}).encode())


def checksum(file: Path) -> str:
    """Returns the XXH3 checksum of a file, in hexadecimal digits."""
    digest = xxhash.xxh3_128()
    with file.open("rb") as data:
        while chunk := data.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
