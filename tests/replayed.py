"""Replays the commit of a real stage from an earlier artifact, cheaply enough to test every crash point."""

from __future__ import annotations

import shutil
from pathlib import Path

from pipeline.run.dag import Step
from pipeline.runtime.execute import WorkItem
from pipeline.runtime.settings import Settings
from pipeline.runtime.stage import Inputs, Output, Rejected, ReportProgress, Stage
from storage.artifact import Artifact
from storage.keys import KeyTerms
from storage.manifest import REJECTED_FILE


class Replayed(Stage):
    """Makes an artifact of a real stage again from its files."""

    def __init__(self, stage: type[Stage], artifact: Artifact) -> None:
        super().__init__(Settings())
        self.name, self.version, self.writes = stage.name, stage.version, stage.writes  # type: ignore[misc]
        self.schema, self.whole = artifact.table(stage.writes).schema, stage.whole  # type: ignore[misc]
        self.artifact = artifact

    def item(self, step: str) -> WorkItem:
        """The work item with the key of the artifact."""
        manifest = self.artifact.manifest
        return WorkItem(step, manifest.partition, KeyTerms(**manifest.terms))

    def run(self, inputs: Inputs, work: Path, report: ReportProgress) -> Output:
        """Copy the files of the artifact to where the stage writes them."""
        manifest = self.artifact.manifest
        beside = [name for name in manifest.files if name not in (f"{self.writes}.parquet", REJECTED_FILE)]
        for name in beside:
            shutil.copyfile(self.artifact.file(name), work / name)
        rejected = [Rejected(r["image_id"], r["reason"], r["value"]) for r in self.artifact.rejected().to_pylist()]
        counts = manifest.counts
        return Output(
            self.artifact.table(self.writes), {name: work / name for name in beside}, rejected, counts.rows_in,
            counts.rows_out, manifest.facts,
        )  # fmt: skip


def replayed(steps: list[Step], artifacts: dict[str, dict[str, Artifact]]) -> dict[str, Replayed]:
    """Step → the replay of one of its artifacts."""
    return {step.name: Replayed(step.stage, next(iter(artifacts[step.name].values()))) for step in steps}
