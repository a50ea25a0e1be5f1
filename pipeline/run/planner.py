"""Planning: the key of every partition of a step, whether it is cached, and what is due."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from pipeline.run.dag import Step, build_steps
from pipeline.run.recipe import Recipe
from pipeline.runtime.execute import Record, WorkItem
from pipeline.runtime.stage import Inputs, Stage
from pipeline.stages.ingest import Partition, cut_dataset
from storage.artifact import Artifact
from storage.digests import digest_json, digest_path
from storage.errors import Terminal
from storage.keys import KeyTerms
from storage.open_store import open_store
from storage.runs import Run

WHOLE = "all"
"""The partition name of a stage over the whole set."""
PASSED = "passed"
"""The run's note of what its stages have looked at and not refused: step → digest."""

Done = Mapping[str, Mapping[str, Artifact]]
"""Step → partition → artifact, as far as the chain has come."""


@dataclass
class StepPlan:
    """A step's items: those already in the store and those that must be worked."""

    step: Step
    cached: list[Record] = field(default_factory=list)
    due: list[WorkItem] = field(default_factory=list)

    @property
    def partitions(self) -> int:
        """How many partitions the step covers."""
        return len(self.cached) + len(self.due)


class Chain:
    """A recipe on a store: plans one step after the other and keeps the run's record.

    Keys hold the *content* of what was read, so a step can be planned once the steps above it are done; equal
    content above means that everything below is found again (early cut-off).
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.store = open_store(recipe.store)
        self.store.refresh()
        self.run = Run(self.store, recipe.name)
        self.steps = build_steps(recipe)
        self.done: dict[str, dict[str, Artifact]] = {}

    def plan(self, step: Step) -> StepPlan:
        """Look every partition of `step` up. Raises `Terminal` on settings or data that can't work."""
        plan = StepPlan(step)
        found: dict[str, Artifact] = {}
        items = list(self._items(step))
        there = self.store.find_all(step.stage.name, [item.key for item in items])
        self.store.freshen(step.stage.name, there.values())
        for item in items:
            artifact = there.get(item.key)
            if artifact is None:
                plan.due.append(item)
            else:
                found[item.partition] = artifact
                plan.cached.append(Record.of(step.name, item.partition, artifact, cached=True))
        self.done[step.name] = found
        return plan

    def finish(self, step: Step, records: list[Record]) -> None:
        """Take a step's new artifacts in, have them judged, write the run's record, check the share of rejected rows."""
        found = self.done[step.name]
        made = [record for record in records if record.partition not in found]
        there = self.store.find_all(step.stage.name, [record.key for record in made]) if made else {}
        for record in made:
            artifact = there.get(record.key)
            if artifact is None:
                raise Terminal(f"{record.step} {record.partition}: artifact {record.key[:12]} vanished from the store")
            found[record.partition] = artifact
        self.done[step.name] = dict(sorted(found.items()))
        self.judge(step)
        keys = {part: artifact.key for part, artifact in self.done[step.name].items()}
        self.run.record(step.name, step.stage.name, dict(sorted((self._elsewhere(step) | keys).items())))
        self._check_rejects(step)

    def _elsewhere(self, step: Step) -> dict[str, str]:
        """What the run has of data sets that its stages up to the last one asked for do not need: that stays."""
        if self.recipe.run.until is None:
            return {}
        known = {source.name for source in self.recipe.data.sources}.difference(step.datasets)
        return {part: key for part, key in self.run.keys(step.name).items() if part.split("/")[0] in known}

    def judge(self, step: Step) -> None:
        """Let a step's stage look at all that it made, once: the run keeps which labels passed, by which settings.

        Raises `Terminal` when it refuses it.
        """
        if step.stage.judge is Stage.judge:
            return
        made = dict(sorted(self.done[step.name].items()))
        tables = {table: [self.done[s][part] for part in made for s in steps] for table, steps in step.reads.items()}
        tables[step.stage.writes] = list(made.values())
        contents = {table: [artifact.content for artifact in found] for table, found in tables.items()}
        stamp = digest_json([step.stage.judge_version, step.settings.model_dump(mode="json"), contents])
        passed = self.run.noted(PASSED)
        if passed.get(step.name) != stamp:
            step.stage(step.settings).judge(Inputs(tables))
            self.run.note(PASSED, passed | {step.name: stamp})

    def _check_rejects(self, step: Step) -> None:
        counts = [artifact.manifest.counts for artifact in self.done[step.name].values()]
        rows_in, rows_out = sum(c.rows_in for c in counts), sum(c.rows_out for c in counts)
        limit = self.recipe.run.max_reject_share
        if step.stage.whole or not rows_in or (rows_in - rows_out) / rows_in <= limit:
            return
        reasons: dict[str, int] = {}
        for count in counts:
            for reason, number in count.rejected.items():
                reasons[reason] = reasons.get(reason, 0) + number
        listed = ", ".join(f"{reason}: {number}" for reason, number in sorted(reasons.items(), key=lambda r: -r[1]))
        raise Terminal(
            f"{step.name}: {rows_in - rows_out} of {rows_in} rows rejected ({listed}), more than run.max_reject_share = "
            f"{limit}; `rlip show {self.recipe.name} {step.name}` lists them. Mend the data, or raise the limit"
        )

    def _items(self, step: Step) -> Iterator[WorkItem]:
        stage = step.stage(step.settings)
        settings = stage.row_settings()
        weights = {role: _digest(path) for role, path in stage.weights().items()}
        uses = {table: self._whole(step, table, steps) for table, steps in step.uses.items()}
        before = self.run.keys(step.name) if step.stage.row_wise else {}
        for partition, image_ids, inputs in self._partitions(step):
            digests = {table: [artifact.content for artifact in found] for table, found in {**inputs, **uses}.items()}
            if isinstance(partition, Partition):
                digests["records"] = [partition.digest]
            terms = KeyTerms(stage.name, stage.version, settings, digests, weights)
            name = str(partition)
            yield WorkItem(step.name, name, terms, _folders(inputs), image_ids, _folders(uses), before.get(name, ""))

    def given(self, step: Step) -> dict[str, tuple[Path, ...]]:
        """Folders of the whole artifacts that the step's stage is opened with."""
        return _folders({table: self._whole(step, table, steps) for table, steps in step.uses.items()})

    def _partitions(self, step: Step) -> Iterator[tuple[str | Partition, tuple[int, ...], dict[str, list[Artifact]]]]:
        """Each partition of a step with its image ids (ingest only) and the artifacts it reads."""
        if step.name == "ingest":
            for name in step.datasets:
                source = self.recipe.data.source(name)
                size = self.recipe.data.partition_size
                for partition in cut_dataset(source, size, self.recipe.ingest_settings(), self.store):
                    yield partition, partition.image_ids, {}
        elif step.stage.whole:
            yield WHOLE, (), {table: self._whole(step, table, steps) for table, steps in step.reads.items()}
        else:
            first = next(iter(step.reads.values()))
            for upstream in first:
                for name in self.done[upstream]:
                    if name.split("/")[0] in step.datasets:
                        yield name, (), self._own(name, step)

    def _own(self, partition: str, step: Step) -> dict[str, list[Artifact]]:
        return {table: [self.done[s][partition] for s in steps] for table, steps in step.reads.items()}

    def _whole(self, step: Step, table: str, steps: tuple[str, ...]) -> list[Artifact]:
        wanted = step.from_datasets.get(table)
        return [
            artifact
            for name in steps
            for partition, artifact in self.done[name].items()
            if wanted is None or partition.split("/")[0] in wanted
        ]


def _folders(artifacts: Mapping[str, list[Artifact]]) -> dict[str, tuple[Path, ...]]:
    return {table: tuple(artifact.folder for artifact in found) for table, found in artifacts.items()}


@cache
def _digest(path: Path) -> str:
    return digest_path(path)
