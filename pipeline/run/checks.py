"""Checks of step outputs: of each partition, which no step reads if it failed, and of a step as a whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import chain
from typing import Any

from pipeline.labels.kept_labels import ChoiceSettings
from pipeline.labels.label_audit import LabelAudit, LabelCount
from pipeline.labels.labelled_partitions import candidates
from pipeline.run.dag import Step
from pipeline.run.recipe import ChecksSection
from pipeline.runtime.logs import log
from pipeline.runtime.stage import Inputs, Stage
from pipeline.runtime.wording import first_few
from pipeline.stages.order import chain_order
from storage.artifact import Artifact
from storage.errors import FatalError
from storage.runs import Run
from tagger.english.predicates import canonical

CHECKED = "checks"
"""Name of the note with a run's check results: step → partition → key of its artifact, and results."""
LOWEST = 3
"""Number of predicates that a refusal names when no single one is below the limit."""

InputsOf = Callable[[str], Mapping[str, Artifact]]
"""Partition → the artifacts that it was made from, by table."""


@dataclass(frozen=True)
class CheckResult:
    """The result of one check of one partition."""

    check: str
    value: float | None
    """What was measured; None where there is nothing to judge, which passes."""
    limit: float
    is_least: bool
    """Whether the limit is the lowest allowed value; otherwise it is the highest."""

    @property
    def passed(self) -> bool:
        """Whether the partition may be read."""
        if self.value is None:
            return True
        return self.value >= self.limit if self.is_least else self.value <= self.limit

    @property
    def in_words(self) -> str:
        """E.g. "reject share 0.25, must be at most 0.1"."""
        value = "not judged" if self.value is None else f"{self.value:.4g}"
        return f"{self.check} {value}, must be at {'least' if self.is_least else 'most'} {self.limit:g}"


def _rows(made: Artifact, inputs: Mapping[str, Artifact]) -> float | None:
    """Number of rows that the step yielded."""
    return float(made.manifest.counts.rows_out)


def _reject_share(made: Artifact, inputs: Mapping[str, Artifact]) -> float | None:
    """Share of the rows that were rejected; None without any rows."""
    counts = made.manifest.counts
    return (counts.rows_in - counts.rows_out) / counts.rows_in if counts.rows_in else None


def _relations_per_image(made: Artifact, inputs: Mapping[str, Artifact]) -> float | None:
    """Scored relations per image; None without images, or for an artifact that does not count them."""
    relations, rows = made.manifest.facts.get("relations"), made.manifest.counts.rows_out
    return relations / rows if relations is not None and rows else None


def _average_precision(made: Artifact, inputs: Mapping[str, Artifact]) -> float | None:
    """Average precision of the scored labels; None without a ground-truth relation that a candidate has."""
    return _audit([(inputs["images"], made)]).tagger.average_precision


def _unreachable_share(made: Artifact, inputs: Mapping[str, Artifact]) -> float | None:
    """Share of the ground-truth predicates that no candidate has; None without ground-truth relations."""
    relations = chain.from_iterable(inputs["images"].table("images")["relations"].to_pylist())
    true = {canonical(relation["predicate"]) for relation in relations} - {""}
    pairs = chain.from_iterable(candidates(made)["pairs"].to_pylist())
    return len(true - {canonical(pair["predicate"]) for pair in pairs}) / len(true) if true else None


def _audit(partitions: Iterable[tuple[Artifact, Artifact]]) -> LabelAudit:
    """Compares labels with ground-truth relations; each partition is its artifact of images and that of relations."""
    count = LabelCount(ChoiceSettings())
    for images, relations in partitions:
        count.add(images.table("images"), relations)
    return count.audit()


@dataclass(frozen=True)
class Check:
    """A check of partitions: name, setting of its limit, and what it measures."""

    name: str
    setting: str
    measure: Callable[[Artifact, Mapping[str, Artifact]], float | None]
    """Takes a partition's artifact and those that it was made from, by table. None: there is nothing to judge."""
    stage: str | None = None
    """The only stage whose partitions it judges; None: all stages that work by partitions."""

    @property
    def is_least(self) -> bool:
        """Whether its limit is the lowest allowed value."""
        return self.setting.startswith("min_")


CHECKS = (
    Check("rows", "min_rows", _rows),
    Check("reject share", "max_reject_share", _reject_share),
    Check("relations per image", "min_relations_per_image", _relations_per_image, "tag"),
    Check("average precision", "min_average_precision", _average_precision, "tag"),
    Check("unreachable predicates", "max_unreachable_share", _unreachable_share, "tag"),
)


def checks_of(stage: type[Stage], settings: ChecksSection) -> list[tuple[Check, float]]:
    """The checks that the settings ask of the partitions of a stage, each with its limit."""
    if stage.whole:
        return []
    limits = ((check, float(getattr(settings, check.setting))) for check in CHECKS)
    # A lowest allowed value of 0, and a highest of 1, which only shares have, ask for nothing.
    return [(c, limit) for c, limit in limits if limit != (0 if c.is_least else 1) and c.stage in (None, stage.name)]


def recorded_checks(run: Run) -> Iterator[tuple[str, str, CheckResult]]:
    """Yield step, partition and result of each check, as the last execution that judged the step left them."""
    noted: Mapping[str, Any] = run.read_document(CHECKED)
    for step in sorted(noted, key=chain_order):
        for partition, part in noted[step].items():
            yield from ((step, partition, CheckResult(**result)) for result in part["results"])


class Gates:
    """Judges the partitions of steps, each artifact once, and knows which partitions are held back, and why."""

    def __init__(self, run: Run, settings: ChecksSection) -> None:
        self._run, self._settings = run, settings
        self._failed: dict[tuple[str, str], str] = {}
        """Step and key of an artifact → a description of its failed checks; "" if it passed."""
        self.held: dict[str, dict[str, str]] = {}
        """Step → partition that it holds back → the failed check above it."""

    def judge(self, step: Step, made: Mapping[str, Artifact], inputs_of: InputsOf) -> dict[str, list[CheckResult]]:
        """Judge the partitions of a step. Returns partition → results; empty if the settings ask for no check."""
        checks = checks_of(step.stage, self._settings)
        judged: dict[str, list[CheckResult]] = {}
        for partition, artifact in made.items() if checks else ():
            known = self._known(step.name, artifact.key)
            judged[partition] = [
                CheckResult(
                    check.name,
                    known[check.name] if check.name in known else check.measure(artifact, inputs_of(partition)),
                    limit,
                    check.is_least,
                )
                for check, limit in checks
            ]
            failed = "; ".join(result.in_words for result in judged[partition] if not result.passed)
            self._failed[step.name, artifact.key] = (
                f"{step.name} {partition} failed its check: {failed}" if failed else ""
            )
        return judged

    def note(self, step: Step, made: Mapping[str, Artifact], judged: Mapping[str, list[CheckResult]]) -> None:
        """Keep the results with the run, in place of earlier ones of the step, and log what failed."""
        noted = self._notes
        if not judged and step.name not in noted:
            return
        noted[step.name] = {
            partition: {"key": made[partition].key, "results": [asdict(result) for result in results]}
            for partition, results in judged.items()
        }
        self._run.note(CHECKED, {name: parts for name, parts in noted.items() if parts})
        for partition, results in judged.items():
            for result in results:
                if not result.passed:
                    values = {"check": result.check, "value": result.value, "limit": result.limit}
                    log.warning("check failed", extra={"fields": {"partition": partition, **values}})

    def cause(self, step: Step, partition: str, made: Mapping[str, Artifact], inputs_of: InputsOf) -> str:
        """Why the partition of a step must not be read; "" if it may."""
        if partition in self.held.get(step.name, {}):
            return self.held[step.name][partition]
        artifact = made.get(partition)
        if artifact is None or not checks_of(step.stage, self._settings):
            return ""
        if (step.name, artifact.key) not in self._failed:
            self.judge(step, {partition: artifact}, inputs_of)
        return self._failed[step.name, artifact.key]

    def _known(self, step: str, key: str) -> dict[str, float | None]:
        """What was measured of an artifact before, by check: it is not measured again."""
        for part in self._notes.get(step, {}).values():
            if part["key"] == key:
                return {result["check"]: result["value"] for result in part["results"]}
        return {}

    @cached_property
    def _notes(self) -> dict[str, Any]:
        return self._run.read_document(CHECKED)


def require_passed(run: Run, steps: Iterable[Step]) -> None:
    """Raise `FatalError` that names the partitions of these steps that failed a check, after all others are done."""
    names = {step.name for step in steps}
    failed = [
        f"{step} {partition}: {result.in_words}"
        for step, partition, result in recorded_checks(run)
        if step in names and not result.passed
    ]
    if failed:
        more = f"\n  and {len(failed) - 10} more" if len(failed) > 10 else ""
        raise FatalError(
            f"{len(failed)} check(s) failed, so later steps did not read these partitions; all others are done:\n  "
            + "\n  ".join(failed[:10])
            + f"{more}\n`rlip show {run.name} --checks` shows them all. "
            "Fix the data, or loosen [run.checks], which recomputes nothing"
        )


def require_few_rejects(step: Step, made: Sequence[Artifact], limit: float, run: str) -> None:
    """Raise `FatalError` when a step rejected or corrected too many rows, or too many of what they hold, e.g. boxes."""
    if step.stage.whole:
        return
    manifests = [artifact.manifest for artifact in made]
    reasons = sum((Counter(manifest.counts.rejected) for manifest in manifests), Counter[str]())
    rows_in = sum(manifest.counts.rows_in for manifest in manifests)
    rejects = {"rows": (rows_in, rows_in - sum(manifest.counts.rows_out for manifest in manifests))}
    for part, why in step.stage.parts.items():
        # Artifacts of earlier versions don't count them.
        if all(part in manifest.facts for manifest in manifests):
            rejected = sum(reasons[reason] for reason in why)
            rejects[part] = (rejected + sum(manifest.facts[part] for manifest in manifests), rejected)
    for unit, (total, rejected) in rejects.items():
        corrected = sum(reasons[reason] for reason, of in step.stage.corrected.items() if of == unit)
        if total and (rejected + corrected) / total > limit:
            done = "rejected or corrected" if corrected else "rejected"
            listed = ", ".join(f"{reason}: {number}" for reason, number in reasons.most_common())
            raise FatalError(
                f"{step.name}: {rejected + corrected} of {total} {unit} {done} ({listed}), more than "
                f"run.checks.max_overall_reject_share = {limit}; `rlip show {run} {step.name}` lists them. Fix the "
                "data, or raise the limit"
            )


def require_precise_labels(labelled: Inputs, limit: float) -> None:
    """Compare the labels of all partitions together with the ground-truth relations; a `limit` of 0 asks for nothing.

    Raises `FatalError` when their average precision is below the limit, naming the predicates, or cannot be judged.
    """
    if not limit:
        return
    setting = f"run.checks.min_overall_average_precision = {limit:g}"
    audit = _audit(zip(labelled.artifacts("images"), labelled.artifacts("relations"), strict=True))
    if audit.tagger.average_precision is None:
        raise FatalError(
            f"{setting}: the labelled datasets have no ground-truth relation that a candidate has, so the labels "
            "can't be evaluated; set it to 0"
        )
    if audit.tagger.average_precision >= limit:
        return
    judged = sorted((each for each in audit.predicates if each.truths), key=lambda each: each.average_precision)
    # Each predicate may rank its own labels well although all together rank badly; then the lowest are named.
    failed = [each for each in judged if each.average_precision < limit] or judged[:LOWEST]
    worst = [f"{each.predicate} {each.average_precision:.4g} ({each.truths} true)" for each in failed]
    raise FatalError(
        f"labels refused: their average precision {audit.tagger.average_precision:.4g} over {audit.reachable} "
        f"reachable relations is below {setting} (naive matching: {audit.naive.average_precision:.4g}); worst "
        f"predicates: {first_few(worst, 10)}. Train the tagger longer or on more data, or lower the limit, which "
        "recomputes nothing"
    )
