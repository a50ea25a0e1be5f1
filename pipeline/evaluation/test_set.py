"""A test set with ground-truth relations, and the scores of a network on it."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from PIL.Image import Image

from pipeline.data.images.folders import locate_image
from pipeline.data.images.opening import BadImage, read_ahead, read_image
from pipeline.evaluation import benchmark
from pipeline.evaluation.benchmark import Figure, Options, further_figures
from pipeline.evaluation.bootstrap import resampled
from pipeline.evaluation.detection import Detections, average_precision_50
from pipeline.evaluation.ground_truth import GroundTruth
from pipeline.evaluation.hico import HicoScores, match_hico
from pipeline.evaluation.predictor import Found, Names, Predictor
from pipeline.evaluation.ranking import PER_IMAGE, best_first
from pipeline.evaluation.relations import Relations
from pipeline.evaluation.vcoco_detections import in_roles
from pipeline.evaluation.vcoco_truth import VcocoTruth
from pipeline.runtime.stage import Rejected, ReportProgress
from storage.errors import FatalError
from tagger.triplet import NameTriplet

DUPLICATE_BOXES = 0.5
"""IoU above which two boxes of one label count as the same detection."""


class ScoredImage(NamedTuple):
    """What is scored of an image: its position in the test set, its relations, and its boxes without duplicates."""

    position: int
    relations: Relations
    boxes: Detections

    @classmethod
    def of(cls, position: int, found: Found) -> ScoredImage:
        """Keeps what is scored."""
        return cls(position, found.relations(), found.boxes.without_duplicates(DUPLICATE_BOXES))


@dataclass(frozen=True)
class TestSet:
    """Rows of the `images` table, and the names that they state, which are the texts that a network gets."""

    rows: Sequence[Mapping[str, Any]]
    folders: Mapping[str, Path | str]
    """Dataset → the folder, tar or URL of its images."""
    rejected: list[Rejected] = field(default_factory=list)
    """Images that can't be read."""

    @cached_property
    def truth(self) -> GroundTruth:
        """The ground-truth relations, with canonical predicates."""
        return GroundTruth.of_rows(self.rows)

    @property
    def names(self) -> Names:
        """The object names, and the canonical predicate names."""
        return Names(self.truth.objects, self.truth.predicates)

    def predict(
        self, predictor: Predictor, batch: int, report: ReportProgress, chosen: Iterable[int] | None = None
    ) -> Iterator[tuple[int, Found]]:
        """Yields the position of each chosen image, all by default, with what a network finds in it.

        Images that can't be read are `rejected`. `predictor` must have been made with `names`. `batch`: images that
        pass through the network together.
        """
        positions = list(range(len(self.rows)) if chosen is None else chosen)
        self.rejected.clear()  # a training run evaluates the same set again and again
        readable: list[int] = []
        places = (locate_image(self.folders, self.rows[position]) for position in positions)

        def images() -> Iterator[Image]:
            for position, image in zip(positions, read_ahead(places, read_image, ahead=batch), strict=True):
                if isinstance(image, BadImage):
                    self.rejected.append(Rejected(self.rows[position]["image_id"], image.reason, image.value))
                else:
                    readable.append(position)
                    yield image

        for number, found in enumerate(predictor.predict(images(), batch)):
            yield readable[number], found
            report(number + 1 + len(self.rejected), len(positions))

    def scores(
        self,
        found: Iterable[ScoredImage],
        metrics: Sequence[str] = (),
        unseen: Collection[NameTriplet] | None = None,
    ) -> dict[str, float]:
        """Returns zero_shot_map and zero_shot_recall under HICO-DET's rules, detection_ap50, and the triplet count.

        Only images that were predicted count. `metrics` adds plug-ins. `unseen`: triplets (subject, canonical
        predicate, object) that training left out; adds unseen_map, seen_map and full_map, except those without a
        triplet in the test set, and the number of unseen triplets.
        """
        ordered = sorted(found, key=lambda each: each.position)
        positions = np.array([each.position for each in ordered], np.int64)
        truth = resampled(self.truth.relations, positions)
        predicted = Relations.of([each.relations for each in ordered])
        interactions = match_hico(predicted, truth).scores()
        boxes = average_precision_50(
            [each.boxes for each in ordered], [self._boxes(position) for position in positions]
        )
        figures = {
            "zero_shot_map": interactions.mean(),
            "zero_shot_recall": interactions.mean_recall,
            "detection_ap50": sum(boxes.values()) / max(len(boxes), 1),
            "triplets": float(len(interactions.average_precision)),
        }
        if unseen is not None:
            figures |= self._apart(interactions, unseen)
        further = further_figures(metrics, predicted, truth, self.truth.objects, self.truth.predicates)
        names = [*figures, *(figure.name for figure in further)]
        if twice := [name for name in names if names.count(name) > 1]:
            raise FatalError(f"evaluate.metrics: several figures have the name {twice[0]!r}; omit a metric that has it")
        return figures | _defined(further)

    def vcoco_scores(self, found: Iterable[ScoredImage], truth: VcocoTruth) -> dict[str, float]:
        """Returns V-COCO's own figures by name, e.g. vcoco_role_1 (role AP over 24 roles).

        Only images that the truth has and that were predicted count. Raises `FatalError` if there is none, if the file
        names of the only test set show that these ids stand for different images, or if no predicate names a role.
        """
        listed = dict(zip(truth.image_ids, truth.uris, strict=True))
        scored = [(self.rows[each.position], each) for each in found]
        scored = [(row, each) for row, each in scored if row["image_id"] in listed]
        same = [(row, each) for row, each in scored if _number(row["uri"]) == _number(listed[row["image_id"]])]
        if len({row["dataset"] for row, _ in scored}) > 1:
            # Datasets may use the same ids for different images, or have the same images under different names.
            names = {image_id: PurePosixPath(uri).name for image_id, uri in listed.items()}
            named = [(row, each) for row, each in same if PurePosixPath(row["uri"]).name == names[row["image_id"]]]
            scored = named or same
        elif len(same) < len(scored):
            other = next(row for row, _ in scored if _number(row["uri"]) != _number(listed[row["image_id"]]))
            raise FatalError(
                f"evaluate.vcoco: {len(scored) - len(same)} of {len(scored)} images whose ids are on V-COCO's list are "
                f"different images: image {other['image_id']} is {other['uri']}, not {listed[other['image_id']]}; name "
                "V-COCO's test set in data.test, or remove evaluate.vcoco"
            )
        ids = [row["image_id"] for row, _ in scored]
        if not ids:
            raise FatalError(
                "evaluate.vcoco: no image of the test sets is on V-COCO's list; name its test set in data.test"
            )
        if len(set(ids)) < len(ids):
            raise FatalError("evaluate.vcoco: several test sets have V-COCO's images; name one of them in data.test")
        predicted = best_first(Relations.of([each.relations for _, each in scored]), PER_IMAGE)
        part = truth.of_images(ids)
        try:
            detections = in_roles(predicted, self.names.objects, self.names.predicates, part)
        except ValueError as error:
            raise FatalError(f"evaluate.vcoco: {error}") from error
        figures = _defined(benchmark.vcoco(detections, part, Options(resamples=0)).figures)
        return {f"vcoco_{name}": value for name, value in figures.items()}

    def _apart(self, scores: HicoScores, unseen: Collection[NameTriplet]) -> dict[str, float]:
        objects, predicates = self.names.objects, self.names.predicates
        tested = scores.average_precision.keys()
        left_out = frozenset(
            t for t in tested if (objects[t.subject], predicates[t.predicate], objects[t.object]) in unseen
        )
        means = dict(zip(("unseen_map", "seen_map"), scores.apart(left_out), strict=True)) | {"full_map": scores.mean()}
        figures = {name: value for name, value in means.items() if not np.isnan(value)}
        return figures | {"unseen_triplets": float(len(left_out))}

    def _boxes(self, position: int) -> Detections:
        return self.truth.boxes.take(slice(*np.searchsorted(self.truth.box_images, (position, position + 1))))


def _number(uri: str) -> str:
    """What COCO_val2014_000000000139.jpg and 000000000139.jpg have in common; the whole name if it has no digits."""
    stem = PurePosixPath(uri).stem
    numbers: list[str] = re.findall(r"\d+", stem)
    return numbers[-1] if numbers else stem


def _defined(figures: Iterable[Figure]) -> dict[str, float]:
    """The figures by name, without those that the test set does not define (NaN)."""
    return {figure.name: figure.value for figure in figures if not np.isnan(figure.value)}
