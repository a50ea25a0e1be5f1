"""`rlip diff`: compares two runs: their relations with the change that caused each difference, labels kept, settings, figures."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from heapq import nlargest
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from pipeline.cli.comparison import Comparison, in_words
from pipeline.cli.judged_difference import judged_difference
from pipeline.cli.why import causes_of
from pipeline.labels.verdict_log import Standing, VerdictLog, verdicts_folder
from pipeline.report.formatting import sanitise, table
from storage.artifact import Artifact
from storage.errors import FatalError
from storage.open_store import Address, existing_store, is_remote
from storage.runs import Run, find_run
from storage.store import Store

MIN_SCORE_CHANGE = 0.01
"""Scores that differ by less than this count as equal."""
EXAMPLES = 5
"""Number of examples per kind and cause."""
DETAILED = 5
"""Number of causes that a terminal shows in full, by predicate and with examples."""
KINDS = ("added", "lost", "re-scored")
STEP = "tag"

Labels = dict[tuple[int, int, str, int], float]
"""Image, subject box, predicate, object box → score."""


class Example(NamedTuple):
    """One relation that differs; a score is None where a run lacks it."""

    image_id: int
    subject: int
    predicate: str
    object: int
    before: float | None
    after: float | None

    @property
    def weight(self) -> float:
        """Absolute change of the score; a missing score counts as 0."""
        return abs((self.after or 0.0) - (self.before or 0.0))

    def __str__(self) -> str:
        scores = " → ".join("none" if score is None else f"{score:.3f}" for score in (self.before, self.after))
        return f"image {self.image_id}: #{self.subject} {sanitise(self.predicate)} #{self.object}, {scores}"


@dataclass
class CauseSummary:
    """The relations that differ for one cause: counts by kind and by predicate, and the largest changes as examples."""

    stage: str
    """The stage where the difference began; empty if no stage changed."""
    what: str
    counts: Counter[str] = field(default_factory=Counter)
    predicates: dict[str, Counter[str]] = field(default_factory=dict)
    examples: dict[str, list[Example]] = field(default_factory=dict)

    def add(self, kind: str, found: list[Example]) -> None:
        """Count relations that differ in one way. Those with the largest changes become examples."""
        self.counts[kind] += len(found)
        for example in found:
            self.predicates.setdefault(example.predicate, Counter())[kind] += 1
        kept = [*self.examples.get(kind, []), *found]
        self.examples[kind] = nlargest(EXAMPLES, kept, key=lambda example: example.weight)

    def as_json(self) -> dict[str, Any]:
        """Return the cause as plain values."""
        examples = {kind: [example._asdict() for example in found] for kind, found in self.examples.items()}
        return {**vars(self), "examples": examples}

    def __str__(self) -> str:
        return f"{self.stage}: {self.what}" if self.stage else self.what


@dataclass
class Difference:
    """What differs between the relations of two runs: the number of equal ones, and the others by cause."""

    same: int = 0
    causes: dict[tuple[str, str], CauseSummary] = field(default_factory=dict)
    """Stage and what changed there → the relations that differ because of it."""

    def add(self, cause: tuple[str, str], kind: str, found: list[Example]) -> None:
        """Count relations that differ in one way because of one cause."""
        if found:
            self.causes.setdefault(cause, CauseSummary(*cause)).add(kind, found)

    @property
    def by_size(self) -> list[CauseSummary]:
        """The causes, those with the most relations first."""
        return sorted(self.causes.values(), key=lambda cause: (-cause.counts.total(), str(cause)))

    @property
    def predicates(self) -> dict[str, Counter[str]]:
        """How often each predicate differs, by kind, over all causes."""
        found: dict[str, Counter[str]] = {}
        for cause in self.causes.values():
            for predicate, counts in cause.predicates.items():
                found.setdefault(predicate, Counter()).update(counts)
        return found

    def as_json(self) -> dict[str, Any]:
        """Return the difference as plain values."""
        causes = [cause.as_json() for cause in self.by_size]
        return {"same": self.same, "causes": causes, "predicates": self.predicates}


def print_diff(root: Address, before: str, after: str, as_json: bool, verdicts: Path | None = None) -> None:
    """Print how two runs differ: relations by cause with examples, labels kept, settings, and figures side by side.

    `verdicts`: the folder of verdicts that tell which of these relations were judged; None: that of the store, if any.
    """
    store = existing_store(root)
    runs = find_run(store, before), find_run(store, after)
    found, beside = difference(*runs), Comparison.of(*runs)
    judged = judged_difference(*runs, _standing(root, verdicts), MIN_SCORE_CHANGE)
    if as_json:
        print(json.dumps({**found.as_json(), **beside.as_json(), "judged": judged}, ensure_ascii=False, default=str))
        return
    console = Console()
    causes = found.by_size
    if causes:
        rows = {str(cause): cause.counts for cause in causes}
        console.print(_counted(f"Relations of {after} compared with {before}, by cause", "cause", rows))
    for cause in causes[:DETAILED]:
        console.print(_counted(str(cause), "predicate", cause.predicates))
        for kind in KINDS:
            for example in cause.examples.get(kind, []):
                console.print(Text(f"{kind} {example}"))
    if len(causes) > DETAILED:
        print(f"only the {DETAILED} largest of {len(causes)} causes are shown in full; --json shows them all")
    print(f"{found.same:,} scored relations are unchanged")
    for kind, counts in judged.items():
        said = ", ".join(f"{number:,} {word}" for word, number in counts.items())
        print(f"reviewers judged {sum(counts.values()):,} of those {kind}: {said}")
    _print_comparison(console, before, after, beside)


def _standing(root: Address, verdicts: Path | None) -> Standing:
    """The verdicts that stand; none for a store at a URL without a folder that is named."""
    if verdicts is None and is_remote(root):
        return {}
    return VerdictLog(verdicts or verdicts_folder(root)).standing()


def _print_comparison(console: Console, before: str, after: str, beside: Comparison) -> None:
    kept = beside.kept
    alone = f"{kept.lost.total():,} by {before} alone, {kept.added.total():,} by {after} alone"
    print(f"{kept.same:,} labels are kept by both, {alone}")
    for title, rows in (("Settings that differ", beside.settings), ("Figures", beside.figures)):
        made = table(title, "name", escape(sanitise(before)), escape(sanitise(after)))
        for row in rows:
            made.add_row(Text(sanitise(row.name)), *(Text(sanitise(in_words(v))) for v in (row.before, row.after)))
        if rows:
            console.print()
            console.print(made)


def _counted(title: str, what: str, counted: Mapping[str, Counter[str]]) -> Table:
    made = table(escape(sanitise(title)), what, *KINDS)
    for name, counts in sorted(counted.items(), key=lambda entry: (-entry[1].total(), entry[0])):
        made.add_row(Text(sanitise(name)), *(f"{counts[kind]:,}" for kind in KINDS))
    return made


def difference(before: Run, after: Run) -> Difference:
    """Compare the relations of two runs, partition by partition. An artifact that both runs share is read once.

    Raises `FatalError` when a run has no relations.
    """
    found = Difference()
    old, new = before.artifacts(STEP), after.artifacts(STEP)
    for run, artifacts in ((before, old), (after, new)):
        if not artifacts:
            raise FatalError(f"run {run.name!r} has no artifacts of step {STEP!r}: nothing to compare")
    for partition in sorted(old.keys() | new.keys()):
        one, other = old.get(partition), new.get(partition)
        labels = _labels(one), _labels(other) if one != other else {}
        if one == other:
            found.same += len(labels[0])
            continue
        cause = _cause(before.store, partition, one, other)
        _compare(found, cause, *labels)
    return found


def _compare(found: Difference, cause: tuple[str, str], before: Labels, after: Labels) -> None:
    shared = before.keys() & after.keys()
    changed = {key for key in shared if abs(before[key] - after[key]) >= MIN_SCORE_CHANGE}
    found.same += len(shared) - len(changed)
    ways = {"added": after.keys() - shared, "lost": before.keys() - shared, "re-scored": changed}
    for kind, keys in ways.items():
        found.add(cause, kind, [Example(*key, before.get(key), after.get(key)) for key in sorted(keys)])


def _cause(store: Store, partition: str, before: Artifact | None, after: Artifact | None) -> tuple[str, str]:
    """The stage where a difference began, and what changed there. Changed contents are only named: partitions differ in them."""
    if before is None or after is None:
        return "", f"partitions of {partition.split('/')[0]} that only one run has"
    causes = list(causes_of(store, before, after))
    if not causes:
        return STEP, "unknown"
    change = causes[-1].change
    return causes[-1].stage, change.name if change.is_content else str(change)


def _labels(artifact: Artifact | None) -> Labels:
    return {} if artifact is None else dict(_entries(artifact))


def _entries(artifact: Artifact) -> Iterator[tuple[tuple[int, int, str, int], float]]:
    for row in artifact.table("relations").to_pylist():
        for relation in row["relations"]:
            yield _place(row["image_id"], relation), relation["score"]


def _place(image_id: int, relation: Mapping[str, Any]) -> tuple[int, int, str, int]:
    return image_id, relation["subject"], relation["predicate"], relation["object"]
