"""Runs the tiny chain as users do, by `rlip run` in a separate process, and reads its store afterwards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storage.artifact import Artifact
from storage.open_store import existing_store
from storage.runs import Run


@dataclass(frozen=True)
class World:
    """The data and store of a test, and how it calls `rlip run`."""

    root: Path
    recipe: Path
    data: Path
    store: Path | str

    def command(self, *overrides: str, do: str = "run", direct: bool = True) -> list[str]:
        """The command line of `rlip run --json`, with or without Prefect, or of `rlip plan --json`."""
        settings = [f"data.root={self.data}", f"store={self.store}", *overrides]
        sets = [word for setting in settings for word in ("--set", setting)]
        way = ["--direct"] if do == "run" and direct else []
        return [str(Path(sys.executable).with_name("rlip")), do, str(self.recipe), *way, "--json", *sets]

    def start(self, *overrides: str) -> subprocess.Popen[str]:
        """Start the command as a process whose events can be read."""
        return subprocess.Popen(
            self.command(*overrides), cwd=self.root, env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def run(self, *overrides: str) -> list[dict[str, Any]]:
        """Run to the end and return the events."""
        process = self.start(*overrides)
        out, err = process.communicate(timeout=900)
        assert process.returncode == 0, err[-3000:]
        return [json.loads(line) for line in out.splitlines()]

    def due(self, *overrides: str) -> set[str]:
        """The steps that `rlip plan` says would compute something."""
        done = subprocess.run(
            self.command(*overrides, do="plan"), cwd=self.root, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return {row["step"] for row in json.loads(done.stdout) if row["due"] != 0}

    def ask(self, *words: str) -> Any:
        """The JSON output of another command about the store, e.g. `why tiny tag`."""
        command = [str(Path(sys.executable).with_name("rlip")), *words, "--store", str(self.store), "--json"]
        done = subprocess.run(command, cwd=self.root, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def artifacts(self) -> dict[str, dict[str, Artifact]]:
        """Step → partition → artifact in the run."""
        run = Run(existing_store(self.store), "tiny")
        return {step: run.artifacts(step) for step in run.steps()}

    def contents(self) -> dict[str, dict[str, str]]:
        """Step → partition → digest of the data."""
        return {
            step: {part: artifact.content for part, artifact in found.items()}
            for step, found in self.artifacts().items()
        }
