"""An evaluation as one plain structure, from which a page, a Markdown table and JSON are written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from pipeline.evaluation.anatomy import Anatomy, Dissection, ErrorKind, anatomy
from pipeline.evaluation.benchmark import ClassScore, Evaluated, Figure
from pipeline.evaluation.diagnostics import PairQuality, Reliability, calibration, pair_quality
from pipeline.evaluation.published import PublishedResult, known_caveats, published_results, published_test_set
from pipeline.evaluation.relations import Relations
from storage.json_files import json_values

MOST_CONFIDENT = 100
"""Number of the most confident wrong predictions that the caveat on missing labels looks at."""
RARE_TRUTHS = 10
"""Classes with fewer truths have an average precision that one image can change."""


@dataclass(frozen=True, kw_only=True)
class EvaluationSummary:
    """The outcome of one evaluation."""

    benchmark: str
    """`hico-det`, `v-coco`, `open-images`, `vrd`, `vg`, or another name"""
    subject: str
    """What was evaluated: a run, weights or a file of detections"""
    setting: str
    """As in `published.toml`, e.g. full or UC-RF"""
    figures: tuple[Figure, ...]
    classes: tuple[ClassScore, ...]
    images: int
    truths: int
    predictions: int
    anatomy: Anatomy
    pairs: PairQuality
    calibration: Reliability | None
    """None when scores are not in [0, 1]"""
    predicates: tuple[str, ...]
    """The names that keys of `pairs.predicate_precision` refer to"""
    caveats: tuple[str, ...]
    published: tuple[PublishedResult, ...] = field(default=())
    """Results on the same test set; none where it is not the benchmark's"""
    difference: str = ""
    """How the test set differs from that of published results"""
    scored: str = "mAP"
    """The figure that the errors' costs refer to"""
    measure: str = "AP"
    """What the classes' scores are: average precision, or recall"""

    def worst(self, count: int) -> tuple[ClassScore, ...]:
        """Returns the classes of lowest average precision; among equals those with more truths come first."""
        return tuple(sorted(self.classes, key=lambda c: (c.average_precision, -c.truths, c.name))[:count])

    def as_json(self) -> str:
        """Returns everything as JSON. NaN becomes null."""
        return json.dumps(json_values(asdict(self)), ensure_ascii=False, indent=2)


def summarise(
    benchmark: str,
    subject: str,
    evaluated: Evaluated,
    dissection: Dissection,
    predicates: Sequence[str],
    *,
    setting: str = "full",
    suppression: bool | None = None,
    official: bool = False,
) -> EvaluationSummary:
    """Collects an evaluation, whose score prices the errors (`anatomy`).

    `official`: whether the rules are those of the authors' evaluator. Published results are left out unless the test
    set is the benchmark's and they suppressed duplicates as this evaluation did.
    """
    predicted, truth = dissection.predicted, dissection.truth
    scores = np.zeros(0) if predicted.scores is None else predicted.scores
    known = published_test_set(benchmark)
    images = len(np.unique(truth.image)) if known and known.related else truth.images
    difference = known.difference(images, len(evaluated.classes)) if known else ""
    if benchmark == "open-images" and official and suppression is False:
        difference = difference or "Published results that keep duplicates are by PySGG's evaluator: not comparable."
    is_share = bool(len(scores)) and bool(((scores >= 0) & (scores <= 1)).all())
    return EvaluationSummary(
        benchmark=benchmark,
        subject=subject,
        setting=setting,
        figures=evaluated.figures,
        classes=evaluated.classes,
        images=truth.images,
        truths=len(truth),
        predictions=len(predicted),
        anatomy=anatomy(dissection, evaluated.score),
        pairs=pair_quality(dissection),
        calibration=calibration(scores, dissection.right) if is_share else None,
        predicates=tuple(predicates),
        caveats=(
            *evaluated.rules,
            *known_caveats(benchmark),
            *_measured_caveats(dissection, truth, evaluated.classes, evaluated.measure, official),
        ),
        published=() if difference else published_results(benchmark, suppression),
        difference=difference,
        scored=evaluated.scored,
        measure=evaluated.measure,
    )


def _measured_caveats(
    dissection: Dissection, truth: Relations, classes: Sequence[ClassScore], measure: str, official: bool
) -> list[str]:
    """Caveats about this evaluation's figures, from the truth and its most confident errors."""
    caveats = []
    wrong = np.flatnonzero(~dissection.right)
    if len(wrong) and dissection.predicted.scores is not None:
        confident = wrong[np.argsort(-dissection.predicted.scores[wrong], kind="stable")[:MOST_CONFIDENT]]
        unmarked = int(
            (dissection.of_kind(ErrorKind.BACKGROUND) | dissection.of_kind(ErrorKind.PREDICATE))[confident].sum()
        )
        caveats.append(
            f"Of the {len(confident)} most confident wrong predictions, {unmarked} name a predicate that a true pair "
            "lacks, or a pair that the truth lacks: where a label is missing, they are right."
        )
    _, counts = np.unique(truth.triplets, axis=0, return_counts=True)
    if len(counts):
        tenth = max(1, len(counts) // 10)
        most = int(np.sort(counts)[::-1][:tenth].sum())
        caveats.append(
            f"Imbalance: {most:,} of {len(truth):,} truths belong to the most frequent {tenth} of {len(counts)} "
            "triplets."
        )
    few = sum(each.truths < RARE_TRUTHS for each in classes)
    if few:
        caveats.append(
            f"{few} of {len(classes)} classes have fewer than {RARE_TRUTHS} truths in the test set: a single image can "
            f"change their {measure}."
        )
    empty = truth.images - len(np.unique(truth.image))
    if empty and measure == "AP" and not official:
        caveats.append(f"{empty} of {truth.images} images have no truth, so every prediction in them counts as wrong.")
    return caveats
