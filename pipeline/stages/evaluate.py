"""Stage `evaluate`: measures zero-shot triplet mAP under HICO-DET's rules, and detection AP50."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import pyarrow as pa
from pydantic import AfterValidator, model_validator

from pipeline.runtime.devices import choose_device
from pipeline.runtime.plugins import PluginName, load_plugin, plugin_terms
from pipeline.runtime.settings import Settings, data_file, runtime
from pipeline.runtime.stage import Inputs, Output, ReportProgress, Stage, named_files
from pipeline.stages.split import unseen_triplets
from pipeline.training.config import MODEL, VOCABULARY
from storage.artifact import REMOVE_ARTIFACT
from storage.json_files import read_json
from storage.tables import DETECTIONS_FILE, METRICS
from tagger.triplet import NameTriplet

if TYPE_CHECKING:
    from pipeline.evaluation.vcoco_truth import VcocoTruth


class VcocoFiles(Settings):
    """Also compute V-COCO's metrics (role AP of both scenarios, agent AP), on the test images in these files of its
    authors. Only these include people who do nothing or act on no object."""

    actions: Path = data_file(...)
    """V-COCO's list of actions, e.g. vcoco_test.json."""
    instances: Path = data_file(...)
    """COCO instances with the images of that list, e.g. instances_vcoco_all_2014.json."""


class EvaluateSettings(Settings):
    """What to evaluate, and how to run the network."""

    subject: str | None = None
    """Category of a pair's most probable subject, e.g. "person" for HICO-DET; unset or empty: any."""
    assume_subject: bool = False
    """Name every subject `subject`, whatever the network calls it, and exclude no pair. For weights fine-tuned by the
    authors, whose targets name all subjects alike."""
    metrics: tuple[Annotated[str, AfterValidator(PluginName("metrics"))], ...] = ()
    """Metrics besides HICO-DET's: open_images (score_wtd and its parts), scene_graphs (R@K, mR@K, ng-R@K)."""
    vcoco: VcocoFiles | None = None
    batch_size: int = runtime(16, ge=1)
    """Images per batch of the network."""
    device: Literal["auto", "cpu", "cuda"] = runtime("auto")
    """Where the network runs. auto: on the first GPU if there is one, else on the CPU."""

    @model_validator(mode="after")
    def _the_assumed_subject_is_named(self) -> Self:
        if self.assume_subject and not self.subject:
            raise ValueError("assume_subject: set `subject`, the name to give every subject")
        return self


class EvaluateStage(Stage):
    """Scores one set of weights on the test sets, whose annotations training never saw."""

    name = "evaluate"
    version = 7
    reads = ("images", "weights")
    writes = "scores"
    uses_gpu = True
    loads = "the network"
    schema = METRICS
    whole = True
    settings: EvaluateSettings
    _unseen: frozenset[NameTriplet] | None = None
    _vcoco: VcocoTruth | None = None

    def row_settings(self) -> dict[str, Any]:
        """The settings that change rows. V-COCO's files are in the key by content, not by path."""
        settings = super().row_settings()
        del settings["vcoco"]
        terms = {name: plugin_terms(load_plugin("metrics", name)) for name in self.settings.metrics}
        if any(terms.values()):
            settings["plugins"] = terms
        return settings

    def files(self) -> dict[str, Path]:
        """The files of V-COCO. Raises `FatalError` if one is missing."""
        vcoco = self.settings.vcoco
        named = {} if vcoco is None else {"actions": vcoco.actions, "instances": vcoco.instances}
        return {f"vcoco {setting}": path for setting, path in named_files("evaluate.vcoco", named).items()}

    def open(self, uses: Inputs) -> None:
        """Read which triplets training excluded, if the recipe has a split, and the files of V-COCO."""
        from pipeline.evaluation.vcoco_truth import read_vcoco_truth

        if uses.by_table.get("split"):
            self._unseen = unseen_triplets(uses.artifact("split").table("split"))
        if (vcoco := self.settings.vcoco) is not None:
            self._vcoco = read_vcoco_truth(vcoco.actions, vcoco.instances)

    def run(self, inputs: Inputs, work: Path, report: ReportProgress) -> Output:
        """Predict every test image, then score; unreadable images are quarantined.

        Predictions go to `detections.parquet`, which `rlip evaluate` reads.
        """
        from models.weights import load
        from pipeline.evaluation.detections.table import DetectionsWriter
        from pipeline.evaluation.predictor import Predictor
        from pipeline.evaluation.test_set import ScoredImage, TestSet

        weights = inputs.artifact("weights")
        size = read_json(weights.file(VOCABULARY), dict[str, Any], REMOVE_ARTIFACT)["image_size"]
        network = load(weights.file(MODEL), weights.folder).to(choose_device(self.settings.device, self.worker))
        test_set = TestSet(inputs.table("images").to_pylist(), self.image_folders)
        settings, names = self.settings, test_set.names
        file = work / DETECTIONS_FILE
        scored = []
        with DetectionsWriter(file) as writer:
            predictor = Predictor(
                *(network, names, size),
                subject=settings.subject or None,
                assume_subject=settings.assume_subject,
                every_pair=bool(settings.metrics),
            )
            predicted = test_set.predict(predictor, settings.batch_size, report)
            for position, found in predicted:
                row = test_set.rows[position]
                writer.write({name: row[name] for name in ("image_id", "uri", "width", "height")} | found.row(names))
                scored.append(ScoredImage.of(position, found))
        scores = test_set.scores(scored, settings.metrics, self._unseen)
        if self._vcoco is not None:
            scores |= test_set.vcoco_scores(scored, self._vcoco)
        table = pa.Table.from_pylist([{"step": 0, "name": n, "value": v} for n, v in scores.items()], schema=METRICS)
        rejected = test_set.rejected
        files = {file.name: file}
        return Output(table, files, rejected, rows_in=len(test_set.rows), rows_out=len(scored), facts=scores)
