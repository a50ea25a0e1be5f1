"""Runs: the named results that people use. A run maps partition → key for each step, and so points to artifacts."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from storage.artifact import Artifact
from storage.errors import FatalError
from storage.store import Store

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class Run:
    """The folder `runs/<name>/` of a store: one JSON file per step, plus the recipe that made them."""

    def __init__(self, store: Store, name: str) -> None:
        if not _NAME.fullmatch(name):
            raise FatalError(f"run name {name!r}: use letters, digits, '.', '_' and '-', at most 100, e.g. demo-2")
        self.name = name
        self.store = store
        self.folder = store.root / "runs" / name

    def record(self, step: str, stage: str, keys: dict[str, str]) -> None:
        """Record which artifact holds each partition of a step. `keys`: partition → key."""
        entry = {"step": step, "stage": stage, "partitions": keys}
        self.store.put(self._file(step), json.dumps(entry, indent=1).encode())

    def note(self, name: str, value: Any) -> None:
        """Store a JSON document with the run, e.g. its recipe or the table shown at its end."""
        self.store.put(self.folder / f"{name}.json", json.dumps(value, indent=1, default=str).encode())

    def read_document(self, name: str) -> dict[str, Any]:
        """The JSON object stored under that name, or an empty one where there is none that can be read."""
        try:
            found = json.loads((self.folder / f"{name}.json").read_bytes())
        except (OSError, ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

    def artifacts(self, step: str) -> dict[str, Artifact]:
        """Partition → artifact of a step, for those that were recorded and still exist."""
        stage, keys = self._entry(self._file(step))[1:]
        found = self.store.find_all(stage, keys.values()) if keys else {}
        return {part: found[key] for part, key in keys.items() if key in found}

    def keys(self, step: str) -> dict[str, str]:
        """Partition → key of a step, as recorded, whether or not the artifacts still exist."""
        return self._entry(self._file(step))[2]

    def stage(self, step: str) -> str:
        """The stage that a recorded step executes."""
        return self._entry(self._file(step))[1]

    def steps(self) -> list[str]:
        """Names of the recorded steps, in no particular order."""
        return [self._entry(path)[0] for path in sorted((self.folder / "steps").glob("*.json"))]

    def remove(self) -> None:
        """Forget the run; its artifacts stay until `rlip gc`."""
        self.store.remove_run(self.name)

    @property
    def exists(self) -> bool:
        """Whether anything was recorded under this name."""
        return next((self.folder / "steps").glob("*.json"), None) is not None

    def _entry(self, path: Path) -> tuple[str, str, dict[str, str]]:
        """Step, stage and keys recorded in a file; empty where there is no file. Raises `FatalError` for a damaged one."""
        try:
            entry = json.loads(path.read_bytes())
            return entry["step"], entry["stage"], dict(entry["partitions"])
        except FileNotFoundError:
            return "", "", {}
        except (ValueError, KeyError, TypeError) as error:
            raise FatalError(
                f"{path}: damaged; remove it and run the recipe again: the artifacts that it named are reused"
            ) from error

    def _file(self, step: str) -> Path:
        return self.folder / "steps" / f"{step.replace(':', '.')}.json"


def runs_of(store: Store) -> list[Run]:
    """The runs of a store, by name."""
    names = sorted(folder.name for folder in (store.root / "runs").glob("*") if _NAME.fullmatch(folder.name))
    return [run for run in (Run(store, name) for name in names) if run.exists]


def find_run(store: Store, name: str) -> Run:
    """The run of that name. For an unknown one, raises `FatalError` that lists the runs of the store."""
    run = Run(store, name)
    if not run.exists:
        names = ", ".join(other.name for other in runs_of(store)) or "none yet"
        raise FatalError(f"no run {name!r} in {store.address}; runs there: {names}")
    return run
