"""Counts the labelling funnel from images to kept labels with every loss, and how often each predicate is kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.labels.flat_list import FlatList
from pipeline.labels.kept_labels import ChoiceSettings, judged_labels
from storage.artifact import Artifact
from storage.errors import FatalError
from storage.runs import Run
from storage.tables import CANDIDATES
from tagger.english.predicates import canonical

REPEATED = "proposed by another mention, too"
BELOW_FLOOR = "scored below tag.floor"


@dataclass(frozen=True)
class LabelFunnel:
    """Counts over the labelled data sets; None for stages that the run has not reached.

    Each level adds up: `images`, `captions` and `triplets` without their losses led to something at the next level
    (`grounded` triplets to candidates), `candidates` without losses plus `unproposed` are `scored`, and `scored` without
    losses are `kept`.
    """

    images: int | None = None
    captions: int | None = None
    triplets: int | None = None
    grounded: int | None = None
    """Triplets that led to candidates; None, too, when the tagger's version did not record what became of triplets."""
    candidates: int | None = None
    """Proposals of a predicate for a pair of boxes. None, too, for imported labels without candidates."""
    unproposed: int | None = None
    """Labels with a score that no caption proposes for their pair."""
    scored: int | None = None
    """Labels with a score."""
    kept: int | None = None
    """Labels that stage `shard` keeps."""
    lost: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Level → reason → how many of it led to nothing; the most frequent reason comes first."""

    def levels(self) -> list[tuple[str, int]]:
        """The levels that the run has reached, from images to kept labels, with their counts."""
        counts = {"images": self.images, "captions": self.captions, "triplets": self.triplets}
        counts |= {"grounded": self.grounded, "candidates": self.candidates, "scored": self.scored, "kept": self.kept}
        return [(name, count) for name, count in counts.items() if count is not None]


@dataclass(frozen=True)
class PredicateCount:
    """How often a canonical predicate was kept, and how often the data sets themselves give it."""

    predicate: str
    kept: int
    given: int


def images_with_boxes(run: Run) -> dict[str, Artifact]:
    """Partition → artifact with the table `images` that labels refer to: where a detector found the boxes, that of `detect`."""
    return run.artifacts("ingest") | run.artifacts("detect")


def labelled_partitions(run: Run, step: str, datasets: Sequence[str]) -> dict[str, Artifact]:
    """Partition → artifact of a step, for these data sets only. Of `ingest`, the images as `images_with_boxes` has them."""
    found = images_with_boxes(run) if step == "ingest" else run.artifacts(step)
    return {part: a for part, a in found.items() if part.split("/")[0] in datasets}


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
    """Counts the labels of these data sets, and their predicates with the most kept first."""
    images, captioned, parsed, tagged = (
        labelled_partitions(run, step, datasets) for step in ("ingest", "caption", "parse", "tag")
    )
    lost = {level: Counter[str]() for level in ("images", "captions", "triplets", "candidates", "scored")}
    kept: Counter[str] = Counter()
    scored = unproposed = proposed = 0
    for artifact in tagged.values():
        relations, pairs = artifact.table("relations"), candidates(artifact)
        labels, considered = FlatList.of(relations, "relations"), len(FlatList.of(pairs, "pairs"))
        alone = labels.values("proposed").count(False)
        distinct = _distinct(pairs)
        scored, unproposed, proposed = scored + len(labels), unproposed + alone, proposed + considered
        if "candidates.parquet" in artifact.manifest.files:
            lost["candidates"][REPEATED] += considered - distinct
            lost["candidates"][BELOW_FLOOR] += distinct - (len(labels) - alone)
        judged = judged_labels(relations, pairs, choice).values()
        verdicts = [one.reason for of_image in judged for one in of_image]
        lost["scored"].update(reason for reason in verdicts if reason is not None)
        predicates = labels.values("predicate")
        kept.update(canonical(p) for p, reason in zip(predicates, verdicts, strict=True) if reason is None)
    given: Counter[str] = Counter()
    for partition, artifact in images.items():
        table = artifact.table("images")
        given.update(FlatList.of(table, "relations").values("predicate"))
        lost["images"].update(_uncaptioned(table, captioned.get(partition)) if captioned else {})
    for partition, artifact in captioned.items() if parsed else ():
        lost["captions"].update(_silent(artifact.table("captions"), parsed.get(partition)))
    for partition, artifact in parsed.items() if tagged else ():
        lost["triplets"].update(_ungrounded(artifact, tagged.get(partition)))
    triplets = _items(parsed, "triplets")
    has_candidates = any("candidates.parquet" in artifact.manifest.files for artifact in tagged.values())
    explained = bool(tagged) and all(dropped(artifact) is not None for artifact in tagged.values())
    if not explained:
        del lost["triplets"]
    summed = LabelFunnel(
        images=_rows(images),
        captions=_items(captioned, "captions"),
        triplets=triplets,
        grounded=triplets - lost["triplets"].total() if explained and triplets is not None else None,
        candidates=proposed if has_candidates else None,
        unproposed=unproposed if has_candidates else None,
        scored=scored if tagged else None,
        kept=kept.total() if tagged else None,
        lost={level: found for level, reasons in lost.items() if (found := _most_frequent_first(reasons))},
    )
    return summed, _predicates(kept, given)


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


def _most_frequent_first(reasons: Counter[str]) -> dict[str, int]:
    return dict(sorted(((r, n) for r, n in reasons.items() if n), key=lambda each: (-each[1], each[0])))


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
