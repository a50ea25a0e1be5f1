"""Runs: the named, human-facing results. A run maps partition → key for each step, and points into the artifacts."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from storage.artifact import Artifact
from storage.atomic import write_atomic
from storage.errors import Terminal
from storage.store import Store

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class Run:
    """The folder `runs/<name>/` of a store: one JSON file a step, plus the recipe that made them."""

    def __init__(self, store: Store, name: str) -> None:
        if not _NAME.fullmatch(name):
            raise Terminal(f"run name {name!r}: use letters, digits, '.', '_' and '-', at most 100, e.g. demo-2")
        self.name = name
        self.store = store
        self.folder = store.root / "runs" / name

    def record(self, step: str, stage: str, keys: dict[str, str]) -> None:
        """Say which artifact holds each partition of a step. `keys`: partition → key."""
        entry = {"step": step, "stage": stage, "partitions": keys}
        write_atomic(self._file(step), json.dumps(entry, indent=1).encode())

    def note(self, name: str, value: Any) -> None:
        """Keep a JSON document with the run, e.g. its recipe or the table shown at its end."""
        write_atomic(self.folder / f"{name}.json", json.dumps(value, indent=1, default=str).encode())

    def artifacts(self, step: str) -> dict[str, Artifact]:
        """Partition → artifact of a step, as far as it was recorded and still exists."""
        path = self._file(step)
        if not path.is_file():
            return {}
        entry = json.loads(path.read_bytes())
        found = {part: self.store.find(entry["stage"], key) for part, key in entry["partitions"].items()}
        return {part: artifact for part, artifact in found.items() if artifact is not None}

    def steps(self) -> list[str]:
        """Names of the recorded steps, in no particular order."""
        return [json.loads(p.read_bytes())["step"] for p in sorted((self.folder / "steps").glob("*.json"))]

    def _file(self, step: str) -> Path:
        return self.folder / "steps" / f"{step.replace(':', '.')}.json"
