"""Judges all labels of a partition at once, as columns: what `judged_labels` finds, without a Python object for each label."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.labels.flat_list import FlatList
from pipeline.labels.kept_labels import OVER_PER_IMAGE, REPEATED, UNREADABLE, ChoiceSettings, judged_labels
from storage.errors import FatalError
from tagger.english.predicates import canonical
from tagger.labelling.label_choice import NotKept

_REASONS: tuple[str | None, ...] = (None, str(NotKept.BELOW_THRESHOLD), UNREADABLE, REPEATED, OVER_PER_IMAGE)
_KEPT, _BELOW, _UNREADABLE, _REPEATED, _OVER = range(5)


@dataclass(frozen=True)
class JudgedColumns:
    """The verdicts on N labels in the order of the table: `confidence` (N), and `reason` (N), null for those that are kept."""

    confidence: NDArray[np.float64]
    reason: pa.Array


def judged_columns(relations: pa.Table, candidates: pa.Table, settings: ChoiceSettings) -> JudgedColumns:
    """Judges the labels of a partition's `relations`. Rules that compare the labels of a mention or of a pair go image by image.

    Raises `FatalError` when the labels lack a value that the settings require.
    """
    if settings.rule == "best" or settings.per_pair is not None or settings.fitted_calibration() is not None:
        judged = [one for each in judged_labels(relations, candidates, settings).values() for one in each]
        confidence = np.array([one.confidence for one in judged], np.float64)
        return JudgedColumns(confidence, pa.array([one.reason for one in judged], pa.string()))
    labels = FlatList.of(relations, "relations")
    coded = labels.fields.field("predicate").dictionary_encode()
    surface, names = np.asarray(coded.indices, np.int64), coded.dictionary.to_pylist()
    exact = _confidence(labels, settings)
    least = np.array([settings.thresholds.get(name, settings.threshold) for name in names], np.float64)
    readable = [canonical(name) for name in names]
    order = {name: place for place, name in enumerate(sorted(set(readable)))}
    predicate = np.array([order[name] for name in readable], np.int64)[surface]
    # numpy rounds in binary, Python the decimal value: the last digit would differ now and then.
    confidence = np.array([round(value, 6) for value in exact.tolist()], np.float64)
    reason = np.where(exact < least[surface], _BELOW, _KEPT)
    if "" in order:
        reason[(reason == _KEPT) & (predicate == order[""])] = _UNREADABLE
    _choose_distinct(labels, predicate, confidence, settings.max_relations, reason)
    return JudgedColumns(confidence, pa.array(_REASONS, pa.string()).take(pa.array(reason)))


def _confidence(labels: FlatList, settings: ChoiceSettings) -> NDArray[np.float64]:
    """The confidence of each label, not rounded (N)."""
    measure = labels.fields.field("score" if settings.confidence == "score" else "calibrated")
    posterior = labels.fields.field("posterior")
    if measure.null_count:
        raise FatalError(
            "shard.confidence = 'calibrated': labels are not calibrated; train the tagger with held_out > 0 or use 'score'"
        )
    found: NDArray[np.float64] = np.asarray(measure, np.float64)
    if settings.rule == "posterior":
        if pc.any(pc.and_(labels.fields.field("proposed"), pc.is_null(posterior))).as_py():
            raise FatalError("shard.rule = 'posterior': labels have no posteriors; run `tag` again, or use 'all'")
        # If no mention proposed the label for this pair, no mention can mean it: its posterior is 0.
        found = found * np.asarray(pc.fill_null(posterior, 0.0), np.float64)
    return found


def _choose_distinct(
    labels: FlatList,
    predicate: NDArray[np.int64],
    confidence: NDArray[np.float64],
    most: int,
    reason: NDArray[np.int64],
) -> None:
    """Leaves out, in `reason`, all but the surest of equal labels and those over the limit of `most` an image.

    `predicate`: numbers in the alphabetical order of the canonical names.
    """
    kept = np.flatnonzero(reason == _KEPT)
    if not len(kept):
        return
    row = labels.row[kept]
    ends = [labels.numbers(end).astype(np.int64)[kept] for end in ("subject", "object")]
    names = (ends[0], ends[1], predicate[kept])
    sure = -confidence[kept]
    # Of equally sure ones the first counts; lexsort is stable.
    order = np.lexsort((sure, names[2], names[1], names[0], row))
    same = np.ones(len(kept) - 1, bool)
    for values in (row, *names):
        same &= values[order][1:] == values[order][:-1]
    reason[kept[order[1:][same]]] = _REPEATED
    distinct = order[np.concatenate([[True], ~same])]
    ranked = distinct[np.lexsort((*(values[distinct] for values in reversed(names)), sure[distinct], row[distinct]))]
    starts = np.searchsorted(row[ranked], row[ranked], side="left")
    reason[kept[ranked[np.arange(len(ranked)) - starts >= most]]] = _OVER
