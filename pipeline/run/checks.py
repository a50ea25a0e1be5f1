"""Checks of one partition: what each measures, and whether the partition passes under the settings of a recipe."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from pipeline.labels.kept_labels import ChoiceSettings
from pipeline.labels.label_audit import LabelCount
from pipeline.labels.labelled_partitions import candidates
from pipeline.run.check_settings import CheckSettings
from pipeline.runtime.stage import Stage
from storage.artifact import Artifact
from storage.runs import Run
from tagger.english.predicates import canonical

CHECKED = "checks"
"""Name of the note in which a run keeps the results of its checks: step → partition → key of its artifact, and results."""


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
        """E.g. "reject share 0.25, allowed at most 0.1"."""
        value = "not judged" if self.value is None else f"{self.value:.4g}"
        return f"{self.check} {value}, allowed at {'least' if self.is_least else 'most'} {self.limit:g}"


class Measured:
    """A partition's artifact with the artifacts that it was made from. Tables are read only for the checks that need them."""

    def __init__(self, artifact: Artifact, inputs: Mapping[str, Artifact]) -> None:
        self._artifact, self._inputs = artifact, inputs

    def rows(self) -> float | None:
        """Rows that came out."""
        return float(self._artifact.manifest.counts.rows_out)

    def reject_share(self) -> float | None:
        """Share of the rows that did not come out; None without any."""
        counts = self._artifact.manifest.counts
        return (counts.rows_in - counts.rows_out) / counts.rows_in if counts.rows_in else None

    def relations_per_image(self) -> float | None:
        """Scored relations per image; None without images, or for an artifact that does not tell."""
        manifest = self._artifact.manifest
        relations = manifest.facts.get("relations")
        return relations / manifest.counts.rows_out if relations is not None and manifest.counts.rows_out else None

    def average_precision(self) -> float | None:
        """Average precision of the scored labels; None without a stated relation that a candidate has."""
        count = LabelCount(ChoiceSettings())
        count.add(self._inputs["images"].table("images"), self._artifact)
        found = count.audit()
        return found.tagger.average_precision if found.reachable else None

    def unreachable_share(self) -> float | None:
        """Share of the stated predicates that no candidate has; None without stated relations."""
        relations = chain.from_iterable(self._inputs["images"].table("images")["relations"].to_pylist())
        stated = {canonical(relation["predicate"]) for relation in relations} - {""}
        pairs = chain.from_iterable(candidates(self._artifact)["pairs"].to_pylist())
        return len(stated - {pair["predicate"] for pair in pairs}) / len(stated) if stated else None


@dataclass(frozen=True)
class Check:
    """A check: its name, the setting with its limit and the value that switches it off, and what it measures."""

    name: str
    setting: str
    off: float
    measure: Callable[[Measured], float | None]
    stage: str | None = None
    """The only stage whose partitions it judges; None: all stages that work by partitions."""

    @property
    def is_least(self) -> bool:
        """Whether its limit is the lowest allowed value."""
        return self.setting.startswith("min_")


CHECKS = (
    Check("rows", "min_rows", 0, Measured.rows),
    Check("reject share", "max_reject_share", 1, Measured.reject_share),
    Check("relations per image", "min_relations_per_image", 0, Measured.relations_per_image, "tag"),
    Check("average precision", "min_average_precision", 0, Measured.average_precision, "tag"),
    Check("unreachable predicates", "max_unreachable_share", 1, Measured.unreachable_share, "tag"),
)


def checks_of(stage: type[Stage], settings: CheckSettings) -> list[tuple[Check, float]]:
    """The checks that the settings ask of the partitions of a stage, each with its limit."""
    if stage.whole:
        return []
    limits = ((check, float(getattr(settings, check.setting))) for check in CHECKS)
    return [(c, limit) for c, limit in limits if limit != c.off and c.stage in (None, stage.name)]


def judge(
    checks: Sequence[tuple[Check, float]], measured: Measured, known: Mapping[str, float | None]
) -> list[CheckResult]:
    """The results of the checks. Values in `known` are those of the same artifact and are not measured again."""
    return [
        CheckResult(
            check.name, known[check.name] if check.name in known else check.measure(measured), limit, check.is_least
        )
        for check, limit in checks
    ]


def recorded_checks(run: Run) -> dict[str, dict[str, list[CheckResult]]]:
    """Step → partition → results, as the last execution that judged the step left them."""
    noted: Mapping[str, Any] = run.read_document(CHECKED)
    return {
        step: {partition: [CheckResult(**result) for result in found["results"]] for partition, found in parts.items()}
        for step, parts in noted.items()
    }
