"""Plans a step: the key of every partition, whether it is cached, and what is due. Forecasts runs from plans."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline.run.checks import Gates, InputsOf, checks_of, require_few_rejects, require_precise_labels
from pipeline.run.context import RunContext
from pipeline.run.dag import Step
from pipeline.runtime.execute import Record, WorkItem, interrupted
from pipeline.runtime.stage import WHOLE, Inputs, Partition, Stage, dataset_of
from pipeline.stages.tag import TagStage
from storage.artifact import Artifact
from storage.digests import digest_json
from storage.errors import FatalError
from storage.keys import KeyTerms, changes

_Causes = dict[str, str]
"""Partition → why it is due."""

PASSED = "passed"
"""Name of the run's note with the audits that its steps passed: step → digest."""


@dataclass
class StepPlan:
    """A step's items: cached ones, due ones, and partitions that are held back."""

    step: Step
    cached: list[Record] = field(default_factory=list)
    due: list[WorkItem] = field(default_factory=list)
    held: dict[str, str] = field(default_factory=dict)
    """Partition that is held back → the failed check of what it would read."""
    later: float | None = None
    """Seconds that the steps after it are expected to take; None where that is not known."""

    @property
    def partitions(self) -> int:
        """How many partitions the step covers."""
        return len(self.cached) + len(self.due)

    @property
    def images(self) -> dict[str, int]:
        """Due partition → its number of images."""
        return {item.partition: item.images for item in self.due}


class Planner:
    """Plans the steps of a run one after the other, and records finished steps.

    Keys hold the *content* of what was read, so a step can be planned once the steps it needs are done. If they
    yield equal content, everything downstream is found in the store (early cut-off).
    """

    def __init__(self, context: RunContext) -> None:
        self.context = context
        self.done: dict[str, dict[str, Artifact]] = {}
        """Step → partition → artifact, for the steps planned so far."""
        self.sizes: dict[str, int] = {}
        """Dataset → its number of images, once its source is planned."""
        self.gates = Gates(context.run, context.recipe.run.checks)
        self._steps = {step.name: step for step in context.steps}

    def plan(self, step: Step, without: Collection[str] = ()) -> StepPlan:
        """Look up every partition of `step` except those in `without`, whose inputs don't exist yet.

        Raises `FatalError` for settings or data that can't work, and for a step over whole datasets that reads a
        partition which failed a check.
        """
        if blocked := self.blocked(step):
            raise FatalError(
                f"{step.name} would read partitions that failed a check; first: {blocked}. "
                f"`rlip show {self.context.recipe.name} --checks` shows all. Fix the data, or loosen "
                "[run.checks], which recomputes nothing"
            )
        plan = StepPlan(step, held=self.gates.held.setdefault(step.name, {}))
        plan.held.clear()
        store, found = self.context.store, {}
        items = list(self._items(step, without))
        there = store.find_all(step.stage.name, [item.key for item in items])
        store.touch(step.stage.name, there.values())
        for item in items:
            artifact = there.get(item.key)
            if artifact is None:
                plan.due.append(item)
            else:
                found[item.partition] = artifact
                plan.cached.append(Record.of(step.name, item.partition, artifact, cached=True))
        # Keys of later steps hold the digests in this order, which must not depend on that of the recipe's datasets.
        self.done[step.name] = dict(sorted(found.items()))
        return plan

    def finish(self, step: Step, records: list[Record]) -> None:
        """Accept a step's new artifacts: audit them, record them in the run, and check the share of rejected rows."""
        known = self.done[step.name]
        new = [record for record in records if record.partition not in known]
        there = self.context.store.find_all(step.stage.name, [record.key for record in new]) if new else {}
        for record in new:
            artifact = there.get(record.key)
            if artifact is None:
                raise FatalError(
                    f"{record.step} {record.partition}: artifact {record.key[:12]} vanished from the store; run again"
                )
            known[record.partition] = artifact
        self.done[step.name] = made = dict(sorted(known.items()))
        self.gates.note(step, made, self.gates.judge(step, made, self._inputs_of(step)))
        self.audit(step)
        keys = {partition: artifact.key for partition, artifact in made.items()}
        self.context.recorded[step.name] = keys = dict(sorted((self._other_sets(step) | keys).items()))
        self.context.run.record(step.name, step.stage.name, keys)
        recipe = self.context.recipe
        # After the record, from which `rlip show` lists what was rejected.
        require_few_rejects(step, list(made.values()), recipe.run.checks.max_overall_reject_share, recipe.name)

    def audit(self, step: Step) -> None:
        """Inspect all artifacts of a step. The run remembers what passed, so each audit happens once.

        Raises `FatalError` when the stage refuses them, or when labels are worse than the recipe allows.
        """
        limit = self.context.recipe.run.checks.min_overall_average_precision if step.stage is TagStage else 0.0
        if step.stage.audit is Stage.audit and not limit:
            return
        made = self.done[step.name]
        if step.stage.whole:
            tables = self._whole(step, step.reads)
        else:
            tables = {t: [self.done[self._writer(s, part)][part] for part in made] for t, s in step.reads.items()}
        tables[step.stage.writes] = list(made.values())
        contents = {table: [artifact.content for artifact in artifacts] for table, artifacts in tables.items()}
        stamp = digest_json([step.stage.audit_version, limit, step.settings.model_dump(mode="json"), contents])
        run = self.context.run
        passed = run.read_document(PASSED)
        if passed.get(step.name) != stamp:
            step.stage(step.settings).audit(Inputs(tables))
            require_precise_labels(Inputs(tables), limit)
            run.note(PASSED, passed | {step.name: stamp})

    def uses(self, step: Step) -> dict[str, tuple[Path, ...]]:
        """Folders of the artifacts that the stage of the step is opened with, by table."""
        return _folders(self._whole(step, step.uses))

    def blocked(self, step: Step) -> str:
        """Why a step can't be planned: a failed check of a partition that it needs as a whole; "" if none failed."""
        needed = {**(step.reads if step.stage.whole else {}), **step.uses}
        for table, names in needed.items():
            wanted = step.from_datasets.get(table)
            for name in names:
                for partition in (*self.done[name], *self.gates.held.get(name, {})):
                    if (wanted is None or dataset_of(partition) in wanted) and (cause := self._cause(name, partition)):
                        return cause
        return ""

    def _cause(self, name: str, partition: str) -> str:
        """The failed check because of which a partition of the step `name` must not be read; "" if it may."""
        step = self._steps[name]
        return self.gates.cause(step, partition, self.done[name], self._inputs_of(step))

    def _inputs_of(self, step: Step) -> InputsOf:
        return lambda partition: {
            table: self.done[self._writer(steps, partition)][partition] for table, steps in step.reads.items()
        }

    def _other_sets(self, step: Step) -> dict[str, str]:
        """Partition → key, for datasets that a partial run (`run.until`) does not ingest. They stay in the record."""
        if self.context.recipe.run.until is None or step.reads:
            return {}
        known = {source.name for source in self.context.recipe.data.sources}.difference(step.datasets)
        return {part: key for part, key in self.context.run.keys(step.name).items() if dataset_of(part) in known}

    def _items(self, step: Step, without: Collection[str]) -> Iterator[WorkItem]:
        stage = step.stage(step.settings)
        settings = stage.row_settings()
        weights = {role: self.context.digest(path) for role, path in stage.files().items()}
        uses = self._whole(step, step.uses)
        run = self.context.run
        before = run.keys(step.name) if step.stage.row_wise else {}
        for partition, inputs in self._partitions(step, stage, without):
            digests = {table: [artifact.content for artifact in found] for table, found in {**inputs, **uses}.items()}
            if partition.digest:
                digests["records"] = [partition.digest]
            terms = KeyTerms(stage.name, stage.version, settings, digests, weights)
            name, ids = partition.name, partition.image_ids
            first = next(iter(inputs.values()), []) if not step.stage.whole else []
            images = len(ids) or sum(artifact.manifest.counts.rows_out for artifact in first)
            yield WorkItem(
                step.name, name, terms, _folders(inputs), ids, _folders(uses), before.get(name, ""), images, run.name
            )

    def _partitions(
        self, step: Step, stage: Stage, without: Collection[str]
    ) -> Iterator[tuple[Partition, dict[str, list[Artifact]]]]:
        """Yield each partition of a step with the artifacts that it reads."""
        if step.stage.whole:
            every = self._whole(step, step.reads)
            taken = {table: [a for a in found if stage.takes(table, a)] for table, found in every.items()}
            # If it takes nothing, the stage itself says what it lacks.
            yield Partition(WHOLE, (), ""), {table: found or every[table] for table, found in taken.items()}
        elif not step.reads:
            for dataset in step.datasets:
                self.sizes[dataset] = 0
                for partition in stage.partitions(dataset, self.context.store):
                    self.sizes[dataset] += len(partition.image_ids)
                    yield partition, {}
        else:
            first = next(iter(step.reads.values()))
            held = self.gates.held[step.name]
            for upstream in first:
                for name in (*self.done[upstream], *self.gates.held.get(upstream, {})):
                    is_meant = dataset_of(name) in step.datasets and name not in without
                    if not is_meant or self._writer(first, name) != upstream:
                        continue
                    causes = (self._cause(self._writer(steps, name), name) for steps in step.reads.values())
                    if cause := next(filter(None, causes), ""):
                        held[name] = cause
                        continue
                    inputs = {table: [artifact] for table, artifact in self._inputs_of(step)(name).items()}
                    yield Partition(name, (), ""), inputs

    def _writer(self, steps: tuple[str, ...], partition: str) -> str:
        """Which of the steps that write a table wrote a partition's: the last one that covers its dataset."""
        if len(steps) == 1:
            return steps[0]
        covered = {step.name: step.datasets for step in self.context.steps}
        return next(name for name in reversed(steps) if dataset_of(partition) in covered[name])

    def _whole(self, step: Step, tables: Mapping[str, tuple[str, ...]]) -> dict[str, list[Artifact]]:
        """Table → the artifacts of all partitions of the datasets that the step reads."""
        return {
            table: [
                artifact
                for name in steps
                for partition, artifact in self.done[name].items()
                if (wanted := step.from_datasets.get(table)) is None or dataset_of(partition) in wanted
            ]
            for table, steps in tables.items()
        }


@dataclass(frozen=True)
class StepForecast:
    """What a run would do with a step."""

    step: str
    cached: int
    due: int
    why: str
    at_most: bool = False
    """Whether partitions count as due because what they read is due. They stay cached if that comes out unchanged."""
    checks: tuple[str, ...] = ()
    """What each of its partitions must satisfy before a step may read it."""
    held: int = 0
    """Partitions that are held back because what they would read failed a check."""


def forecast(planner: Planner) -> Iterator[StepForecast]:
    """Yield the forecast of each step in the order of the chain. Only stores the partitioning."""
    settings = planner.context.recipe.run.checks
    checks = {step.name: checks_of(step.stage, settings) for step in planner.context.steps}
    for each in _forecast(planner):
        words = (f"{c.name} {'≥' if c.is_least else '≤'} {limit:g}" for c, limit in checks[each.step])
        yield replace(each, checks=tuple(words))


def _forecast(planner: Planner) -> Iterator[StepForecast]:
    context = planner.context
    pending: dict[str, _Causes] = {}
    blocked: dict[str, str] = {}
    for step in context.steps:
        above = (blocked[name] for name in sorted(step.needs) if name in blocked)
        if cause := next(above, "") or planner.blocked(step):
            blocked[step.name], planner.done[step.name], pending[step.name] = cause, {}, {}
            yield StepForecast(step.name, 0, 0, f"refused: {cause}")
            continue
        inherited = _inherited(planner, step, pending)
        cached, due = 0, {}
        if WHOLE not in inherited:
            plan = planner.plan(step, without=inherited)
            keys, before = context.run.keys(step.name), context.run.artifacts(step.name)
            cached, due = len(plan.cached), {item.partition: _why(item, keys, before) for item in plan.due}
            if step.stage.resumes_from:
                due |= {i.partition: note for i in plan.due if (note := interrupted(step.stage, i, context.store))}
        pending[step.name] = causes = due | inherited
        if WHOLE in inherited:
            planner.done[step.name] = {}
        why = next(iter(causes.values()), "")
        held = planner.gates.held.get(step.name, {})
        why = why or next((f"held back: {cause}" for cause in held.values()), "")
        yield StepForecast(step.name, cached, len(causes), why, at_most=bool(inherited), held=len(held))


def _inherited(planner: Planner, step: Step, pending: Mapping[str, _Causes]) -> _Causes:
    """A step's partitions that wait for what they read, each with the first cause and the step where it occurred."""
    causes: _Causes = {}
    for table, names in {**step.reads, **step.uses}.items():
        for name in names:
            for partition, why in pending[name].items():
                cause = why if ": " in why and why.partition(": ")[0] in pending else f"{name}: {why}"
                if step.stage.whole:
                    wanted = step.from_datasets.get(table)
                    if wanted is None or dataset_of(partition) in wanted:
                        causes.setdefault(WHOLE, cause)
                elif table in step.uses:
                    causes = dict.fromkeys(_partitions(planner, step, pending), cause) | causes
                elif dataset_of(partition) in step.datasets:
                    causes.setdefault(partition, cause)
    return causes


def _partitions(planner: Planner, step: Step, pending: Mapping[str, _Causes]) -> list[str]:
    """All partitions that a step will have."""
    upstream = next(iter(step.reads.values()))
    every = {partition for name in upstream for partition in (*planner.done[name], *pending[name])}
    return sorted(partition for partition in every if dataset_of(partition) in step.datasets)


def _why(item: WorkItem, keys: Mapping[str, str], before: Mapping[str, Artifact]) -> str:
    """The first term of the item's key that differs from the run's earlier artifact of the same partition."""
    if item.partition not in keys:
        return "new" if not keys else f"new partition {item.partition}"
    artifact = before.get(item.partition)
    changed = changes(artifact.manifest.terms, item.terms.as_json()) if artifact is not None else []
    return str(changed[0]) if changed else "its artifact was removed"


def _folders(artifacts: Mapping[str, list[Artifact]]) -> dict[str, tuple[Path, ...]]:
    return {table: tuple(artifact.folder for artifact in found) for table, found in artifacts.items()}
