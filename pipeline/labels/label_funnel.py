"""Counts the labelling funnel from images to kept labels with every loss, and how often each predicate is kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.labels.flat_list import FlatList
from pipeline.labels.held_artifact import held
from pipeline.labels.kept_labels import ChoiceSettings, judged_labels
from pipeline.labels.label_overrides import Overrides, overrides_of
from pipeline.labels.label_tally import LabelFunnel, LabelTally, PredicateCount
from storage.artifact import Artifact
from storage.errors import FatalError
from storage.runs import Run
from storage.tables import CANDIDATES
from tagger.english.predicates import canonical

REPEATED = "proposed by another mention, too"
BELOW_FLOOR = "scored below tag.floor"


class LabelledPartition(NamedTuple):
    """The artifacts that a run has of one partition, from images to labels."""

    images: Artifact | None
    captioned: Artifact | None
    parsed: Artifact | None
    tagged: Artifact | None


def images_with_boxes(run: Run) -> dict[str, Artifact]:
    """Partition → artifact with the table `images` that labels refer to: where a detector found the boxes, that of `detect`."""
    return run.artifacts("ingest") | run.artifacts("detect")


def labelled_partitions(run: Run, step: str, datasets: Sequence[str]) -> dict[str, Artifact]:
    """Partition → artifact of a step, for these datasets only. Of `ingest`, the images as `images_with_boxes` has them."""
    found = images_with_boxes(run) if step == "ingest" else run.artifacts(step)
    return {part: a for part, a in found.items() if part.split("/")[0] in datasets}


def byte_copies(digests: Sequence[pa.ChunkedArray]) -> int:
    """Counts images whose bytes are those of an image before them, by the digests of the bytes."""
    every = pa.chunked_array([chunk for column in digests for chunk in column.chunks], pa.string())
    return len(every) - int(pc.count_distinct(every).as_py())


def candidates(tagged: Artifact) -> pa.Table:
    """The candidate pairs stored beside the labels of stage `tag`; empty when the artifact has no such file."""
    return tagged.table("candidates") if "candidates.parquet" in tagged.manifest.files else CANDIDATES.empty_table()


def dropped(tagged: Artifact) -> pa.Table | None:
    """The triplets that led to no candidate, with reasons; None when the tagger's version did not record them."""
    return tagged.table("dropped") if "dropped.parquet" in tagged.manifest.files else None


def require_same_boxes(ingested: Artifact, tagged: Artifact) -> None:
    """Raise `FatalError` when labels were made from other images than these: their box indices would mean other boxes."""
    read = tagged.manifest.terms["inputs"].get("images")
    if read is not None and ingested.content not in read:
        raise FatalError(
            f"{tagged.manifest.partition}: the labels were made before its images were ingested again, or their boxes detected "
            "again; run stage tag again"
        )


def label_counts(
    run: Run, datasets: Sequence[str], choice: ChoiceSettings
) -> tuple[LabelFunnel, tuple[PredicateCount, ...]]:
    """Counts the labels of these datasets, and their predicates with the most kept first."""
    summed, settled = LabelTally(), overrides_of(run)
    for partition, found in partition_artifacts(run, datasets):
        summed.add(label_tally(found, choice, settled.get(partition)))
    return summed.funnel(), summed.predicates()


def partition_artifacts(run: Run, datasets: Sequence[str]) -> Iterator[tuple[str, LabelledPartition]]:
    """Yields the partitions of these datasets. Each keeps its tables in memory for as long as it is used."""
    steps = [labelled_partitions(run, step, datasets) for step in ("ingest", "caption", "parse", "tag")]
    for partition in dict.fromkeys(name for found in steps for name in found):
        there = (found.get(partition) for found in steps)
        yield partition, LabelledPartition(*(None if one is None else held(one) for one in there))


def label_tally(found: LabelledPartition, choice: ChoiceSettings, settled: Overrides | None) -> LabelTally:
    """Counts the labels of one partition."""
    judged = _judged(found.tagged, choice, settled) if found.tagged is not None else ()
    return partition_tally(*found, judged)


def partition_tally(
    images: Artifact | None,
    captioned: Artifact | None,
    parsed: Artifact | None,
    tagged: Artifact | None,
    judged: Sequence[str | None],
) -> LabelTally:
    """Counts the labels of one partition, of which a run may lack artifacts.

    `judged`: why each label of `tagged` is not kept, in their order; None for those that are.
    """
    tally = LabelTally()
    if images is not None:
        table = images.table("images")
        tally.numbers["images"] = images.manifest.counts.rows_out
        tally.parts["given"] = Counter(FlatList.of(table, "relations").values("predicate"))
        tally.parts["images"] = _uncaptioned(table, captioned)
    if captioned is not None:
        captions = captioned.table("captions")
        tally.numbers["captions"] = len(FlatList.of(captions, "captions"))
        tally.parts["captions"] = _silent(captions, parsed)
    if parsed is not None:
        tally.numbers["triplets"] = len(FlatList.of(parsed.table("triplets"), "triplets"))
        tally.parts["triplets"] = _ungrounded(parsed, tagged)
    if tagged is not None:
        _count_labels(tally, tagged, judged)
    return tally


def _count_labels(tally: LabelTally, tagged: Artifact, judged: Sequence[str | None]) -> None:
    labels, pairs = FlatList.of(tagged.table("relations"), "relations"), candidates(tagged)
    alone = labels.values("proposed").count(False)
    if "candidates.parquet" in tagged.manifest.files:
        proposed, distinct = len(FlatList.of(pairs, "pairs")), _distinct(pairs)
        tally.numbers["candidates"] = proposed
        tally.parts["candidates"] = Counter(
            {REPEATED: proposed - distinct, BELOW_FLOOR: distinct - (len(labels) - alone)}
        )
    kept = Counter(p for p, reason in zip(labels.values("predicate"), judged, strict=True) if reason is None)
    tally.numbers.update(
        scored=len(labels), unproposed=alone, kept=kept.total(), unexplained=int(dropped(tagged) is None)
    )
    tally.parts["scored"] = Counter(reason for reason in judged if reason is not None)
    tally.parts["kept"] = Counter()
    for predicate, number in kept.items():
        tally.parts["kept"][canonical(predicate)] += number


def _judged(tagged: Artifact, choice: ChoiceSettings, settled: Overrides | None) -> list[str | None]:
    verdicts = judged_labels(tagged.table("relations"), candidates(tagged), choice, settled)
    return [one.reason for of_image in verdicts.values() for one in of_image]


def _uncaptioned(images: pa.Table, captioned: Artifact | None) -> Counter[str]:
    """Why images of a partition have no caption."""
    if captioned is None:
        return Counter({"not captioned yet": len(images)})
    rows = captioned.table("captions")
    lengths = dict(zip(rows["image_id"].to_pylist(), pc.list_value_length(rows["captions"]).to_pylist(), strict=True))
    rejected = {row["image_id"]: row["reason"] for row in captioned.rejected().to_pylist()}
    found: Counter[str] = Counter()
    boxes = pc.list_value_length(images["boxes"]).to_pylist()
    for image_id, number in zip(images["image_id"].to_pylist(), boxes, strict=True):
        if not lengths.get(image_id):
            found["without a box" if not number else rejected.get(image_id, "without a caption")] += 1
    return found


def _silent(captions: pa.Table, parsed: Artifact | None) -> Counter[str]:
    """Why captions of a partition led to no triplet."""
    number = len(FlatList.of(captions, "captions"))
    if parsed is None:
        return Counter({"not parsed yet": number})
    triplets = FlatList.of(parsed.table("triplets"), "triplets")
    speaking = len(set(zip(triplets.row.tolist(), triplets.values("caption"), strict=True)))
    refused = Counter(parsed.manifest.counts.rejected)
    return refused + Counter({"without a relation": number - speaking - refused.total()})


def _ungrounded(parsed: Artifact, tagged: Artifact | None) -> Counter[str]:
    """Why triplets of a partition led to no candidate."""
    read = None if tagged is None else tagged.manifest.terms["inputs"].get("triplets")
    if tagged is None or (read is not None and parsed.content not in read):
        return Counter({"not tagged since they were parsed": len(FlatList.of(parsed.table("triplets"), "triplets"))})
    lost = dropped(tagged)
    return Counter() if lost is None else Counter(lost["reason"].to_pylist())


def _distinct(pairs: pa.Table) -> int:
    """The number of distinct labels that candidates propose."""
    items = FlatList.of(pairs, "pairs")
    ends = (items.numbers("subject").tolist(), items.numbers("object").tolist(), items.values("predicate"))
    return len(set(zip(items.row.tolist(), *ends, strict=True)))
