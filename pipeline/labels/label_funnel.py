"""Counts the labelling funnel from images to kept labels, and how often each predicate is kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from pipeline.labels.flat_list import FlatList
from pipeline.labels.kept_labels import ChoiceSettings, kept_labels
from storage.artifact import Artifact
from storage.errors import FatalError
from storage.runs import Run
from storage.tables import CANDIDATES
from tagger.english.predicates import canonical


@dataclass(frozen=True)
class LabelFunnel:
    """Counts over the labelled data sets; None for stages that the run has not reached."""

    images: int | None = None
    captions: int | None = None
    triplets: int | None = None
    candidates: int | None = None
    """Proposals of a predicate for a pair of boxes."""
    scored: int | None = None
    """Labels with a score."""
    kept: int | None = None
    """Labels that stage `shard` keeps."""


@dataclass(frozen=True)
class PredicateCount:
    """How often a canonical predicate was kept, and how often the data sets themselves give it."""

    predicate: str
    kept: int
    given: int


def labelled_partitions(run: Run, step: str, datasets: Sequence[str]) -> dict[str, Artifact]:
    """Partition → artifact of a step, for these data sets only."""
    return {part: a for part, a in run.artifacts(step).items() if part.split("/")[0] in datasets}


def candidates(tagged: Artifact) -> pa.Table:
    """The candidate pairs stored beside the labels of stage `tag`; empty when the artifact has no such file."""
    return tagged.table("candidates") if "candidates.parquet" in tagged.manifest.files else CANDIDATES.empty_table()


def require_same_boxes(ingested: Artifact, tagged: Artifact) -> None:
    """Raise `FatalError` when labels were made from other images than these: their box indices would mean other boxes."""
    read = tagged.manifest.terms["inputs"].get("images")
    if read is not None and ingested.content not in read:
        raise FatalError(
            f"{tagged.manifest.partition}: the labels were made before its images were ingested again; run stage tag again"
        )


def label_counts(
    run: Run, datasets: Sequence[str], choice: ChoiceSettings
) -> tuple[LabelFunnel, tuple[PredicateCount, ...]]:
    """Counts the labels of these data sets, and their predicates with the most kept first."""
    images, tagged = labelled_partitions(run, "ingest", datasets), labelled_partitions(run, "tag", datasets)
    kept: Counter[str] = Counter()
    scored = proposed = 0
    for artifact in tagged.values():
        relations, pairs = artifact.table("relations"), candidates(artifact)
        scored += len(FlatList.of(relations, "relations"))
        proposed += len(FlatList.of(pairs, "pairs"))
        for labels in kept_labels(relations, pairs, choice).values():
            kept.update(label.predicate for label in labels)
    given: Counter[str] = Counter()
    for artifact in images.values():
        given.update(FlatList.of(artifact.table("images"), "relations").values("predicate"))
    summed = LabelFunnel(
        images=_rows(images),
        captions=_items(labelled_partitions(run, "caption", datasets), "captions"),
        triplets=_items(labelled_partitions(run, "parse", datasets), "triplets"),
        candidates=proposed if tagged else None,
        scored=scored if tagged else None,
        kept=sum(kept.values()) if tagged else None,
    )
    return summed, _predicates(kept, given)


def _predicates(kept: Mapping[str, int], given: Mapping[str, int]) -> tuple[PredicateCount, ...]:
    totals: dict[str, list[int]] = {}
    for place, counts in enumerate((kept, given)):
        for predicate, count in counts.items():
            totals.setdefault(canonical(predicate), [0, 0])[place] += count
    ranked = sorted(totals.items(), key=lambda item: (-item[1][0], -item[1][1], item[0]))
    return tuple(PredicateCount(predicate, *counts) for predicate, counts in ranked)


def _rows(artifacts: Mapping[str, Artifact]) -> int | None:
    return sum(a.manifest.counts.rows_out for a in artifacts.values()) if artifacts else None


def _items(artifacts: Mapping[str, Artifact], table: str) -> int | None:
    found = [len(FlatList.of(artifact.table(table), table)) for artifact in artifacts.values()]
    return sum(found) if artifacts else None
