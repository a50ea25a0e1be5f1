"""`rlip diff`: compares two runs: relations with the cause of each difference, kept labels, settings and figures."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, field
from heapq import nlargest
from typing import Annotated, Any, NamedTuple

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.cli.explain import ends_of
from pipeline.cli.options import STORE, AsJson, StorePath, VerdictsFolder
from pipeline.cli.why import causes_of
from pipeline.labels.audit_sample import RIGHT, WRONG
from pipeline.labels.kept_labels import ChoiceSettings, choice_or_all, judged_artifact
from pipeline.labels.label_overrides import Overrides, overrides_of
from pipeline.labels.labelled_partitions import images_with_boxes, require_same_boxes
from pipeline.labels.verdict_log import VerdictLog, folder_to_read
from pipeline.labels.verdict_summary import outcome_of, run_precision
from pipeline.labels.verdicts import Box4, JudgedRelation, StandingVerdicts, box4
from pipeline.report.formatting import sanitise, table
from pipeline.report.label_view import SCORES, LabelView
from pipeline.report.steps import summaries
from pipeline.report.variants import score_name, score_points, variant_scores
from pipeline.runtime.stage import dataset_of
from storage.artifact import Artifact
from storage.errors import FatalError
from storage.open_store import existing_store
from storage.runs import Run, find_run
from storage.store import Store
from tagger.english.predicates import canonical

MIN_SCORE_CHANGE = 0.01
"""Scores that differ by less than this count as equal."""
EXAMPLES = 5
"""Number of examples per kind and cause."""
DETAILED = 5
"""Number of causes that a terminal shows in full, by predicate and with examples."""
KINDS = ("added", "lost", "re-scored")
STEP = "tag"

Label = tuple[int, int, str, int]
"""Image, subject box, predicate, object box."""


class Example(NamedTuple):
    """One relation that differs. A score is None if a run lacks the relation.

    Boxes have the numbers of the second run if it has the relation, else of the first.
    """

    image_id: int
    subject: int
    predicate: str
    object: int
    before: float | None
    after: float | None

    def __str__(self) -> str:
        scores = " → ".join("none" if score is None else f"{score:.3f}" for score in (self.before, self.after))
        return f"image {self.image_id}: #{self.subject} {sanitise(self.predicate)} #{self.object}, {scores}"


@dataclass
class CauseSummary:
    """The relations that differ for one cause: counts by kind and predicate, and the largest changes as examples."""

    stage: str
    """The stage where the difference began; "" if no stage changed."""
    what: str
    counts: Counter[str] = field(default_factory=Counter)
    predicates: dict[str, Counter[str]] = field(default_factory=dict)
    examples: dict[str, list[Example]] = field(default_factory=dict)

    def add(self, kind: str, found: list[Example]) -> None:
        """Count relations that differ in one way; those with the largest changes become examples."""
        self.counts[kind] += len(found)
        for example in found:
            self.predicates.setdefault(example.predicate, Counter())[kind] += 1
        kept = [*self.examples.get(kind, []), *found]
        # A missing score counts as 0.
        self.examples[kind] = nlargest(EXAMPLES, kept, key=lambda one: abs((one.after or 0.0) - (one.before or 0.0)))

    def as_json(self) -> dict[str, Any]:
        """The cause as JSON values."""
        examples = {kind: [example._asdict() for example in found] for kind, found in self.examples.items()}
        return {**vars(self), "examples": examples}

    def __str__(self) -> str:
        return f"{self.stage}: {self.what}" if self.stage else self.what


class Changed(NamedTuple):
    """A setting or figure of two runs. A value is None if a run lacks it."""

    name: str
    before: Any
    after: Any


@dataclass
class KeptChange:
    """How many labels both runs keep, and how many only one keeps, by predicate."""

    same: int = 0
    added: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    corrected: Counter[str] = field(default_factory=Counter)
    """added, lost: how many of these reviewers settled in the second run."""

    def add(
        self, before: set[Label], after: set[Label], numbers: Callable[[int, int], int], settled: Overrides
    ) -> None:
        """Count the labels of a partition. `numbers`: see `_numbering`; `settled`: by reviewers of the second run."""
        added, lost = after - before, before - after
        self.same += len(after) - len(added)
        self.added.update(predicate for _, _, predicate, _ in added)
        self.lost.update(predicate for _, _, predicate, _ in lost)
        for image_id, said in settled.items():
            for way, side, labels in (("added", said.right, added), ("lost", said.wrong, lost)):
                for subject, object_, name in side:
                    if (image_id, numbers(image_id, subject), name, numbers(image_id, object_)) in labels:
                        self.corrected[way] += 1


@dataclass
class Difference:
    """The differences between two runs: relations by cause, kept labels, settings and figures."""

    settings: tuple[Changed, ...]
    figures: tuple[Changed, ...]
    kept: KeptChange = field(default_factory=KeptChange)
    same: int = 0
    """Relations that are equal."""
    causes: dict[tuple[str, str], CauseSummary] = field(default_factory=dict)
    """(Stage, what changed there) → the relations that differ because of it."""
    judged: dict[str, Counter[str]] = field(default_factory=dict)
    """Kind → verdict in words → how many relations that differ in this way reviewers judged so."""

    @property
    def by_size(self) -> list[CauseSummary]:
        """The causes by their number of relations, largest first."""
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
        """The difference as JSON values."""
        causes = [cause.as_json() for cause in self.by_size]
        listed = {name: [row._asdict() for row in getattr(self, name)] for name in ("settings", "figures")}
        return {
            "same": self.same, "causes": causes, "predicates": self.predicates, "kept": vars(self.kept), **listed,
            "judged": self.judged,
        }  # fmt: skip


def diff(
    before: Annotated[str, typer.Argument(metavar="RUN_A", help="The run to compare with (before).")],
    after: Annotated[str, typer.Argument(metavar="RUN_B", help="The run to examine (after).")],
    store: StorePath = STORE,
    verdicts: VerdictsFolder = None,
    as_json: AsJson = False,
) -> None:
    """Compare the relations of two runs: which were added, lost or re-scored, and which change caused it.

    Also compare the labels they keep, their settings and their figures.
    """
    opened = existing_store(store)
    runs = find_run(opened, before), find_run(opened, after)
    found = difference(*runs, VerdictLog(folder_to_read(opened, verdicts)).standing())
    reviewed = {run.name: run_precision(run, verdicts) for run in runs}
    if as_json:
        people = {name: None if human is None else asdict(human) for name, human in reviewed.items()}
        values = {**found.as_json(), "reviewed": people}
        print(json.dumps(values, ensure_ascii=False, default=str))
        return
    console = Console(markup=False)
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
        print(f"showing the {DETAILED} largest of {len(causes)} causes in full; --json shows all")
    print(f"{found.same:,} relations are in both, with scores less than {MIN_SCORE_CHANGE} apart")
    for kind, counts in found.judged.items():
        said = ", ".join(f"{number:,} {word}" for word, number in counts.most_common())
        print(f"reviewers judged {counts.total():,} of those {kind}: {said}")
    for name, human in reviewed.items():
        if human is not None:
            print(f"reviewers of {name}: {human.in_words()}")
    _print_comparison(console, before, after, found)


def _in_words(value: Any) -> str:
    """A setting or figure as text; a dash if a run lacks it."""
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def _print_comparison(console: Console, before: str, after: str, found: Difference) -> None:
    kept = found.kept
    alone = f"{kept.lost.total():,} by {before} only, {kept.added.total():,} by {after} only"
    print(f"{kept.same:,} labels are kept by both, {alone}")
    if kept.corrected:
        added, lost = kept.corrected["added"], kept.corrected["lost"]
        print(f"of these, reviewers' verdicts added {added:,} and removed {lost:,}")
    figures = "Figures; scores of variants are means over seeds, in percent"
    for title, rows in (("Settings that differ", found.settings), (figures, found.figures)):
        made = table(title, "name", sanitise(before), sanitise(after))
        for row in rows:
            made.add_row(Text(sanitise(row.name)), *(Text(sanitise(_in_words(v))) for v in (row.before, row.after)))
        if rows:
            console.print()
            console.print(made)


def _counted(title: str, what: str, counted: Mapping[str, Counter[str]]) -> Table:
    made = table(sanitise(title), what, *KINDS)
    for name, counts in sorted(counted.items(), key=lambda entry: (-entry[1].total(), entry[0])):
        made.add_row(Text(sanitise(name)), *(f"{counts[kind]:,}" for kind in KINDS))
    return made


def difference(before: Run, after: Run, standing: StandingVerdicts | None = None) -> Difference:
    """Compare two runs, one partition at a time. `standing`: the verdicts that are counted.

    Raises `FatalError` if a run has no relations.
    """
    standing = standing or {}
    digests = {relation.image for relation in standing}
    old, new = before.artifacts(STEP), after.artifacts(STEP)
    images = images_with_boxes(before), images_with_boxes(after)
    for run, artifacts in ((before, old), (after, new)):
        if not artifacts:
            raise FatalError(f"run {run.name!r} has no artifacts of step {STEP!r}: nothing to compare")
    choices = choice_or_all(before), choice_or_all(after)
    settled = overrides_of(before), overrides_of(after)
    was, now = dict(_named_figures(before)), dict(_named_figures(after))
    figures = tuple(Changed(name, was.get(name), now.get(name)) for name in was | now)
    result = Difference(tuple(_settings(before, after)), figures)
    for (name_before, name_after), ids in _shared(old, new).items():
        one, other = old.get(name_before), new.get(name_after)
        boxed = images[0].get(name_before), images[1].get(name_after)
        number = _numbering(boxed, (one, other))
        kept = _kept(one, choices[0], settled[0].get(name_before), ids)
        kept_after = _kept(other, choices[1], settled[1].get(name_after), ids)
        renumbered = {(i, number(i, s), name, number(i, o)) for i, s, name, o in kept_after}
        said = {i: each for i, each in settled[1].get(name_after, {}).items() if i in ids}
        result.kept.add(kept, renumbered, number, said)
        labels = _labels(one, ids)
        if one == other:
            result.same += len(labels)
            continue
        found = _labels(other, ids)
        keys = {(i, number(i, s), name, number(i, o)): (i, s, name, o) for i, s, name, o in found}
        others = {key: found[own] for key, own in keys.items()}
        cause = _cause(before.store, dataset_of(name_before or name_after), one, other)
        judged = [_judged_rows(each, digests) for each in boxed]
        ways = _ways(labels, others)
        result.same += len(labels.keys() & others.keys()) - len(ways["re-scored"])
        for kind, differing in ways.items():
            examples = [Example(*keys.get(key, key), labels.get(key), others.get(key)) for key in sorted(differing)]
            if examples:
                result.causes.setdefault(cause, CauseSummary(*cause)).add(kind, examples)
            if counts := Counter(_verdicts(judged[kind != "lost"], examples, standing)):
                result.judged.setdefault(kind, Counter()).update(counts)
    return result


def _shared(old: Mapping[str, Artifact], new: Mapping[str, Artifact]) -> dict[tuple[str, str], set[int]]:
    """A partition of each run → the ids of their common images, and of those that have no counterpart.

    An image that one run lacks goes with a partition of that run that shares other images with its own; "" for none.
    `old`, `new`: partition → labels. Runs that take different images of a dataset divide it differently.
    """
    artifacts = {made.key: made for made in (*old.values(), *new.values())}  # those of both runs are read once
    ids = {key: made.table("relations")["image_id"].to_pylist() for key, made in artifacts.items()}
    one, other = (
        {(dataset_of(name), i): name for name, made in sorted(run.items()) for i in ids[made.key]} for run in (old, new)
    )
    common = [(one[image], other[image]) for image in one if image in other]
    after, before = dict(common), {name: partner for partner, name in common}
    shared: dict[tuple[str, str], set[int]] = {}
    for dataset, image_id in one | other:
        was, now = (places.get((dataset, image_id), "") for places in (one, other))
        shared.setdefault((was or before.get(now, ""), now or after.get(was, "")), set()).add(image_id)
    return shared


def _ways(before: Mapping[Label, float], after: Mapping[Label, float]) -> dict[str, set[Label]]:
    """The relations that differ, by kind."""
    shared = before.keys() & after.keys()
    changed = {key for key in shared if abs(before[key] - after[key]) >= MIN_SCORE_CHANGE}
    return {"added": after.keys() - shared, "lost": before.keys() - shared, "re-scored": changed}


def _numbering(images: Sequence[Artifact | None], tagged: Sequence[Artifact | None]) -> Callable[[int, int], int]:
    """Image id and number of a box in the second run → its number in the first, or one that no box has there.

    `images`, `tagged`: a partition's artifacts in both runs. A box is the same if it has the same name and place in an
    image of the same bytes. Raises `FatalError` as `require_same_boxes` does.
    """
    for boxed, labelled in zip(images, tagged, strict=True):
        if boxed is not None and labelled is not None:
            require_same_boxes(boxed, labelled)
    old, new = images
    if old is None or new is None or old == new:
        return lambda image_id, number: number
    known = {row["image_id"]: row for row in old.table("images").select(_IMAGE).to_pylist()}
    numbers: dict[tuple[int, int], int] = {}
    for row in new.table("images").select(_IMAGE).to_pylist():
        same = known.get(row["image_id"], {})
        boxes = same.get("boxes", []) if same.get("digest") == row["digest"] else []
        places: dict[tuple[str, Box4], list[int]] = {}
        for number, box in enumerate(boxes):
            places.setdefault((box["category"], box4(box)), []).append(number)
        for number, box in enumerate(row["boxes"]):
            beyond = len(same.get("boxes", ())) + number
            equal = places.get((box["category"], box4(box)), [])
            numbers[row["image_id"], number] = equal.pop(0) if equal else beyond
    return lambda image_id, number: numbers[image_id, number]


_IMAGE = ["image_id", "digest", "boxes"]


def _cause(store: Store, dataset: str, before: Artifact | None, after: Artifact | None) -> tuple[str, str]:
    """The stage where a difference began, and the change. Contents are only named, since they vary by partition."""
    if before is None or after is None:
        return "", f"images of {dataset} that only one run has"
    causes = list(causes_of(store, before, after))
    if not causes:
        return STEP, "unknown"
    change = causes[-1].change
    return causes[-1].stage, change.name if change.is_content else str(change)


def _labels(artifact: Artifact | None, ids: Collection[int]) -> dict[Label, float]:
    """The relations of these images of a partition with their scores."""
    rows = [] if artifact is None else artifact.table("relations").to_pylist()
    of_ids = [row for row in rows if row["image_id"] in ids]
    return {(row["image_id"], *ends_of(one)): one["score"] for row in of_ids for one in row["relations"]}


def _kept(tagged: Artifact | None, choice: ChoiceSettings, settled: Overrides | None, ids: Set[int]) -> set[Label]:
    """The labels that a run keeps of these images of a partition."""
    if tagged is None:
        return set()
    kept = judged_artifact(tagged, choice, settled).kept()
    return {
        (image_id, label.subject, label.predicate, label.object)
        for image_id in ids & kept.keys()
        for label in kept[image_id]
    }


def _settings(before: Run, after: Run) -> Iterator[Changed]:
    """The settings that differ: which labels are kept, even without shards, what the variants of both runs were
    evaluated on, and the settings of steps in both."""
    kept = Changed("labels kept", *(choice_or_all(run).in_words() for run in (before, after)))
    yield from [kept] if kept.before != kept.after else []
    was, now = (
        {v.variant: f"test images {v.test_images[:12]}, seeds: {v.seeds}" for v in variant_scores(run)}
        for run in (before, after)
    )
    yield from (
        Changed(f"evaluated on, {name}", was[name], now[name]) for name in was if was[name] != now.get(name, was[name])
    )
    old, new = ({summary.step: summary.settings for summary in summaries(run)} for run in (before, after))
    for step in (step for step in old if step in new):
        names = dict.fromkeys((*old[step], *new[step]))
        yield from (
            Changed(f"{step}.{name}", old[step].get(name), new[step].get(name))
            for name in names
            if old[step].get(name) != new[step].get(name)
        )


def _named_figures(run: Run) -> Iterator[tuple[str, float | None]]:
    view = LabelView.of(run)
    yield from view.counts.levels()
    for dataset, audit in view.audits.items():
        names = ("precision", "recall", "precision_at_recall", "average_precision")
        for shown, name in zip(SCORES[1:], names, strict=True):
            yield f"{shown}, {dataset}", _rounded(getattr(audit.tagger, name))
    for variant in variant_scores(run):
        for name, spread in variant.scores.items():
            yield f"{score_name(name)}, {variant.variant}", _rounded(score_points(spread, name))
    for summary in summaries(run):
        yield f"seconds, {summary.step}", summary.seconds


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _judged_rows(images: Artifact | None, digests: Collection[str]) -> dict[int, Mapping[str, Any]]:
    """Image id → row of `images`, of a partition's images with verdicts."""
    rows = images.table("images").select(_IMAGE).to_pylist() if images is not None and digests else ()
    return {row["image_id"]: row for row in rows if row["digest"] in digests}


def _verdicts(
    rows: Mapping[int, Mapping[str, Any]], found: Iterable[Example], standing: StandingVerdicts
) -> Iterator[str]:
    """Yields the verdicts, in words, on those relations that reviewers judged. `rows`: see `_judged_rows`."""
    for each in found:
        # Nobody can judge a predicate without a word, such as "the".
        if each.image_id in rows and canonical(each.predicate):
            row = rows[each.image_id]
            subject, object_ = (box4(row["boxes"][end]) for end in (each.subject, each.object))
            relation = JudgedRelation(row["digest"], subject, object_, each.predicate)
            if relation in standing:
                yield {RIGHT: "right", WRONG: "wrong"}.get(outcome_of(standing[relation]), "unsure")
