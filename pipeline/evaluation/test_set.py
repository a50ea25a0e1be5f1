"""A test set with given relations, and the zero-shot scores of a network on it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from models.network import Network
from pipeline.data.images.folders import locate_image
from pipeline.data.images.opening import BadImage, read_image
from pipeline.evaluation.detection import Detections, average_precision_50
from pipeline.evaluation.hico import HicoRules, score_hico
from pipeline.evaluation.interactions import Interactions
from pipeline.evaluation.relations import Relations
from pipeline.evaluation.zero_shot import TestNames, ZeroShot, truth_detections, truth_interactions
from pipeline.runtime.stage import Rejected, ReportProgress
from tagger.english.predicates import canonical

Found = tuple[int, Interactions, Detections]
"""The position of an image in the test set, and what was predicted in it."""


@dataclass(frozen=True)
class TestSet:
    """Rows of the `images` table, and the names that they state, which are the texts that a network gets."""

    rows: Sequence[Mapping[str, Any]]
    folders: Mapping[str, Path | str]
    """Data set → the folder, tar or URL of its images."""
    rejected: list[Rejected] = field(default_factory=list)
    """Images that can't be read."""

    @property
    def names(self) -> TestNames:
        """The object names, and the canonical predicate names."""
        objects = {box["category"] for row in self.rows for box in row["boxes"]}
        return TestNames(tuple(sorted(objects)), tuple(sorted(set(self._forms.values()))))

    @property
    def _forms(self) -> dict[str, str]:
        return {r["predicate"]: canonical(r["predicate"]) for row in self.rows for r in row["relations"]}

    def predict(
        self,
        network: Network,
        image_size: int,
        subject: str | None,
        batch: int,
        report: ReportProgress,
        chosen: Iterable[int] | None = None,
    ) -> list[Found]:
        """Returns what a network predicts in the chosen images, all by default. Those that can't be read are `rejected`.

        `image_size`, `subject`: as in `ZeroShot`; `batch`: images that pass through the network together.
        """
        positions, images = [], []
        for position in range(len(self.rows)) if chosen is None else chosen:
            row = self.rows[position]
            try:
                images.append(read_image(locate_image(self.folders, row)))
                positions.append(position)
            except BadImage as bad:
                self.rejected.append(Rejected(row["image_id"], bad.reason, bad.value))
        model = ZeroShot(network, self.names, image_size, subject)
        return [
            (positions[place], pairs, boxes)
            for place, pairs, boxes in model.predict(images, HicoRules(), batch, report)
        ]

    def scores(self, found: Iterable[Found]) -> dict[str, float]:
        """Returns zero_shot_map and zero_shot_recall under HICO-DET's rules, detection_ap50, and the number of triplets.

        Only images that were predicted count.
        """
        ordered = sorted(found, key=lambda each: each[0])
        rows, names, forms = [self.rows[each[0]] for each in ordered], self.names, self._forms
        truth = Relations.of([truth_interactions(row, names, forms) for row in rows])
        interactions = score_hico(Relations.of([each[1] for each in ordered]), truth, HicoRules())
        boxes = average_precision_50([each[2] for each in ordered], [truth_detections(row, names) for row in rows])
        return {
            "zero_shot_map": interactions.mean(),
            "zero_shot_recall": interactions.mean_recall,
            "detection_ap50": sum(boxes.values()) / max(len(boxes), 1),
            "triplets": float(len(interactions.average_precision)),
        }
