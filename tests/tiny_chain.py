"""Runs the tiny chain as users do, by `rlip run`, and reads its store afterwards."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlip_command import output_of, started
from warm_process import WarmProcess

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
    name: str = "tiny"
    """Name of the run."""

    def words(self, *overrides: str, do: str = "run", direct: bool = True) -> list[str]:
        """The words of `rlip run --json`, with or without Prefect, or of another command that reads the recipe."""
        settings = [f"data.root={self.data}", f"store={self.store}", *overrides]
        sets = [word for setting in settings for word in ("--set", setting)]
        way = ["--direct"] if do in ("run", "weights train-tagger") and direct else []
        return [*do.split(), str(self.recipe), *way, "--json", *sets]

    def command(self, *overrides: str, direct: bool = True) -> list[str]:
        """The command line of `rlip run --json`, for a process that can be killed."""
        return [str(Path(sys.executable).with_name("rlip")), *self.words(*overrides, direct=direct)]

    def start(self, *overrides: str) -> WarmProcess:
        """Start the command as a process whose events can be read."""
        return started(*self.words(*overrides), cwd=self.root)

    def run(self, *overrides: str, do: str = "run") -> list[dict[str, Any]]:
        """Run to the end, or call another command that reads the recipe, and return its lines of JSON."""
        return [json.loads(line) for line in output_of(*self.words(*overrides, do=do), cwd=self.root).splitlines()]

    def due(self, *overrides: str) -> set[str]:
        """The steps that `rlip plan` says would compute something."""
        (rows,) = self.run(*overrides, do="plan")
        return {row["step"] for row in rows if row["due"] != 0}

    def ask(self, *words: str) -> Any:
        """The JSON output of another command about the store, e.g. `why tiny tag`."""
        return json.loads(output_of(*words, "--store", str(self.store), "--json", cwd=self.root))

    def artifacts(self) -> dict[str, dict[str, Artifact]]:
        """Step → partition → artifact in the run."""
        run = Run(existing_store(self.store), self.name)
        return {step: run.artifacts(step) for step in run.steps()}

    def contents(self) -> dict[str, dict[str, str]]:
        """Step → partition → digest of the data."""
        return {
            step: {part: artifact.content for part, artifact in found.items()}
            for step, found in self.artifacts().items()
        }

    def files(self) -> dict[str, dict[str, str]]:
        """Step and partition → digest of every file, including quarantined rows."""
        return {
            f"{step} {partition}": {name: entry.digest for name, entry in artifact.manifest.files.items()}
            for step, found in self.artifacts().items()
            for partition, artifact in found.items()
        }


def computed(events: list[dict[str, Any]]) -> dict[str, int]:
    """Step → the number of partitions that a run computed, from its events."""
    return {event["step"]: event["due"] for event in events if event.get("event") == "step" and event["due"]}
