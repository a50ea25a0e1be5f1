"""What `rlip show RUN tag` adds: from images to labels, how scores are spread, the usual predicates, the audits."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.console import Console, Group
from rich.text import Text

from pipeline.kept_labels import ChoiceSettings
from pipeline.review.console import share, table
from pipeline.review.label_audit import LabelAudit, LabelCount
from pipeline.review.label_counts import PredicateCount, Yield, label_counts, labelled
from pipeline.review.nested import Items
from pipeline.review.wording import harmless
from pipeline.stages.shard import ShardSettings
from storage.runs import Run

BINS = 10
MOST_PREDICATES = 12
MOST_INSTEAD = 3
_BAR = 40


@dataclass(frozen=True)
class LabelView:
    """The labels of a run's tagging. `scores`: how many in each tenth of [0, 1]; `audits`: by data set with truth."""

    choice: str
    """What is kept, in words."""
    counts: Yield
    scores: tuple[int, ...]
    predicates: tuple[PredicateCount, ...]
    audits: dict[str, LabelAudit]

    @classmethod
    def of(cls, run: Run) -> LabelView:
        """Computed from the run's artifacts; what is kept is up to the recipe."""
        choice = _choice(run)
        datasets = sorted({partition.split("/")[0] for partition in run.artifacts("tag")})
        counts, predicates = label_counts(run, datasets, choice)
        spread = np.zeros(BINS, np.int64)
        for artifact in run.artifacts("tag").values():
            scores = Items.of(artifact.table("relations"), "relations").numbers("score")
            spread += np.bincount(np.minimum((scores * BINS).astype(int), BINS - 1), minlength=BINS)
        audits = {dataset: audit for dataset in datasets if (audit := _audit(run, dataset, choice)).given}
        return cls(choice.in_words(), counts, tuple(spread.tolist()), predicates, audits)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def print(self, console: Console) -> None:
        """The tables, for reading."""
        console.print(Text(harmless(" → ".join(self._yield()))))
        console.print(self._spread(), self._usual())
        for dataset, audit in self.audits.items():
            console.print(_audited(dataset, audit, self.choice))
        if not self.audits:
            console.print(Text("No audit: the labelled sets give no relations to judge by"))

    def _yield(self) -> Iterator[str]:
        for name, count in asdict(self.counts).items():
            if count is not None:
                yield f"{count:,} {f'kept ({self.choice})' if name == 'kept' else name}"

    def _spread(self) -> Group:
        longest = max(self.scores) or 1
        made = table("Scores", "from", "labels", "")
        for place, count in enumerate(self.scores):
            made.add_row(f"{place / BINS:.1f}", f"{count:,}", Text("█" * round(_BAR * count / longest)))
        made.columns[2].justify = "left"
        return Group(made)

    def _usual(self) -> Group:
        made = table("Predicates", "predicate", "kept", "given")
        for each in self.predicates[:MOST_PREDICATES]:
            made.add_row(Text(harmless(each.predicate)), f"{each.kept:,}", f"{each.given:,}")
        return Group(made)


def _audited(dataset: str, audit: LabelAudit, choice: str) -> Group:
    ways = table(
        f"Labels of {harmless(dataset)}, against its {audit.given:,} given relations ({audit.reachable:,} within reach)",
        "labels", "kept", "precision", "recall", "precision at recall .8", "average precision",
    )  # fmt: skip
    for name, way in (
        (f"tagger, {choice}", audit.tagger),
        ("naive matching", audit.naive),
        ("boxes and names alone", audit.prior),
    ):
        values = (way.precision, way.recall, way.precision_at_recall, way.average_precision)
        ways.add_row(name, f"{way.kept:,}", *map(share, values))
    errors = f"Calibration error: {share(audit.score_error)} of scores, {share(audit.calibrated_error)} calibrated"
    made = table("By predicate", "predicate", "kept", "true", "precision", "recall", "AP", "error", "instead of wrong")
    for each in audit.predicates[:MOST_PREDICATES]:
        instead = ", ".join(f"{harmless(what)} {count:,}" for what, count in each.instead[:MOST_INSTEAD])
        numbers = (each.precision, each.recall, each.average_precision, each.calibration_error)
        made.add_row(
            Text(harmless(each.predicate)), f"{each.kept:,}", f"{each.truths:,}", *map(share, numbers), Text(instead)
        )
    made.columns[-1].justify = "left"
    return Group(ways, Text(errors), made)


def _audit(run: Run, dataset: str, choice: ChoiceSettings) -> LabelAudit:
    tagged, count = labelled(run, "tag", [dataset]), LabelCount(choice)
    for partition, artifact in labelled(run, "ingest", [dataset]).items():
        if partition in tagged:
            count.add(artifact.table("images"), tagged[partition])
    return count.audit()


def _choice(run: Run) -> ChoiceSettings:
    """Of the run's recipe; the default's while the run is not over."""
    path = run.folder / "recipe.json"
    given = json.loads(path.read_bytes()).get("shard", {}) if path.is_file() else {}
    return ShardSettings.model_validate(given)
