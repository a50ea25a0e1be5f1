"""Writes checkpoints from memory that it shares with a trainer: `python -m pipeline.training.checkpoints.writer FILE`.

One request as a JSON line on its input, one answer as a JSON line on its output: {} or {"error": "..."}. It imports
nothing of torch, so that it starts at once and takes little memory.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, TypedDict

import xxhash

from pipeline.runtime.processes import die_with_parent
from pipeline.training.checkpoints.folder import FORMAT, RECORD, CheckpointFolder
from storage.disk import LOCAL
from storage.json_files import sealed_json

_CHUNK = 2**24
_SECONDS_TO_WAIT = 120
"""How long the first process waits for the parts of the others."""


class Request(TypedDict):
    """Asks for the part of one process in a checkpoint; the first process completes the checkpoint."""

    folder: str
    step: int
    rank: int
    parts: int
    """Number of processes that write a part."""
    bytes: int
    state: dict[str, Any]
    """What the record holds beside the files."""
    keep: int
    keep_every: int | None
    spared: list[int]
    beside: list[str]
    """Files of the work folder that a resumption needs too."""


def write(request: Request, memory: int) -> None:
    """Writes a part from a memory file. Raises OSError, and TimeoutError when the part of another process is missing."""
    checkpoints, step = CheckpointFolder(Path(request["folder"])), request["step"]
    aside = checkpoints.aside(step)
    aside.mkdir(parents=True, exist_ok=True)
    name = _name(request["rank"], request["parts"])
    check = _copy(memory, aside / name, request["bytes"])
    note = aside / f"{name}.json"
    note.with_suffix(".new").write_text(json.dumps({"bytes": request["bytes"], "check": check}))
    note.with_suffix(".new").rename(note)
    if request["rank"] == 0:
        _complete(checkpoints, request)


def give_up(checkpoints: CheckpointFolder, step: int, rank: int, parts: int) -> None:
    """Says that a part will not come. The first process then removes the others, in place of waiting."""
    aside = checkpoints.aside(step)
    with suppress(OSError):
        if rank == 0:
            shutil.rmtree(aside, ignore_errors=True)
        else:
            aside.mkdir(parents=True, exist_ok=True)
            (aside / f"{_name(rank, parts)}.failed").touch()


def _name(rank: int, parts: int) -> str:
    return f"shard-{rank + 1:05d}-of-{parts:05d}.safetensors"


def _copy(memory: int, path: Path, size: int) -> str:
    """Copies memory into a file that reaches the disk. Returns its checksum."""
    digest = xxhash.xxh3_128()
    target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        for place in range(0, size, _CHUNK):
            chunk = os.pread(memory, min(_CHUNK, size - place), place)
            digest.update(chunk)
            left = memoryview(chunk)
            while left:
                left = left[os.write(target, left) :]
        os.fsync(target)
    finally:
        os.close(target)
    return digest.hexdigest()


def _complete(checkpoints: CheckpointFolder, request: Request) -> None:
    """Waits for the parts of all processes and gives the checkpoint its name."""
    step, parts = request["step"], request["parts"]
    aside = checkpoints.aside(step)
    until = time.monotonic() + _SECONDS_TO_WAIT
    while len(notes := sorted(aside.glob(f"*-of-{parts:05d}.safetensors.json"))) < parts:
        if any(aside.glob("*.failed")):
            raise FileNotFoundError("another process could not write its part of the checkpoint")
        if time.monotonic() > until:
            raise TimeoutError(f"only {len(notes)} of {parts} processes wrote their part of the checkpoint")
        time.sleep(0.02)
    files = {note.name.removesuffix(".json"): json.loads(note.read_text()) for note in notes}
    for note in notes:
        note.unlink()
    record = {"format": FORMAT, "step": step, "files": files} | request["state"]
    (aside / RECORD).write_bytes(sealed_json(record))
    LOCAL.sync_file(aside / RECORD)
    LOCAL.sync_folder(aside)
    if checkpoints.path(step).exists():
        checkpoints.discard(step)
    aside.rename(checkpoints.path(step))
    LOCAL.sync_folder(aside.parent)
    checkpoints.point_to(step, request["beside"])
    checkpoints.prune(request["keep"], request["keep_every"], request["spared"])


def answer(request: Request, memory: int) -> dict[str, str]:
    """Writes a part and returns {}, or {"error": what went wrong}."""
    try:
        write(request, memory)
    except OSError as error:
        return {"error": f"{error.strerror or error}" + (f": {error.filename}" if error.filename else "")}
    return {}


if __name__ == "__main__":
    die_with_parent(os.getppid())
    # Whoever asks the training to stop means its trainer, which needs a last checkpoint.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line), int(sys.argv[1]))), flush=True)
