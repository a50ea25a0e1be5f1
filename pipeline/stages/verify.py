"""Stage `verify`: gives each kept label a second opinion (docs/review.md, A verifier)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import pyarrow as pa
from pydantic import AfterValidator, Field, PrivateAttr, model_validator

from pipeline.labels.kept_labels import ChoiceSettings, judged_labels
from pipeline.runtime.chat_endpoint import tokens_taken
from pipeline.runtime.plugins import PluginName, PluginStage, load_plugin
from pipeline.runtime.stage import Inputs, Output, Rejected, ReportProgress
from pipeline.stages.labellers import LabellerSettings
from pipeline.stages.tag import tagging_image
from pipeline.training.sample import SampleRelation
from storage.errors import FatalError
from storage.tables import OPINIONS
from tagger.pair import Pair


class VerifySettings(LabellerSettings):
    """A second opinion on each kept label (docs/review.md, A verifier). Without this section, there is none."""

    section: ClassVar[str] = "verify"

    method: Annotated[str, AfterValidator(PluginName("labellers"))] = "vlm"
    """A labeller that needs no tagger: clip; vlm, which asks whether each label holds; or one of another package."""
    floor: float = Field(0.0, ge=0, le=1)
    """Minimum probability of an opinion; a label without one counts as not verified."""
    _kept: ChoiceSettings = PrivateAttr(ChoiceSettings())

    @model_validator(mode="before")
    @classmethod
    def _asks_about_labels(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("method", "vlm") == "vlm":
            return {**values, "options": {"ask": "label", **values.get("options", {})}}
        return values

    def of(self, kept: ChoiceSettings) -> Self:
        """These settings for the labels that `kept` chooses."""
        made = self.model_copy()
        made._kept = kept
        return made

    @property
    def kept(self) -> ChoiceSettings:
        """Which labels the run keeps."""
        return self._kept

    def row_settings(self) -> dict[str, Any]:
        """The settings that change opinions, the choice of labels among them."""
        kept = self._kept.model_dump(mode="json", include=set(ChoiceSettings.model_fields))
        return super().row_settings() | {"kept": kept}

    @model_validator(mode="after")
    def _looks_for_itself(self) -> Self:
        try:
            is_able = load_plugin("labellers", self.method).verifies
        except FatalError as error:
            raise ValueError(f"method: {error}") from error
        if not is_able:
            raise ValueError(f"method: {self.method!r} gives no opinion of its own; name another labeller, e.g. 'vlm'")
        return self


class VerifyStage(PluginStage):
    """Scores the kept labels of one partition again. Opinions of images that can't be read or scored go to
    quarantine."""

    name = "verify"
    version = 1
    reads = ("images", "relations")
    writes = "opinions"
    loads = "the verifier"
    schema = OPINIONS
    settings: VerifySettings

    def open(self, uses: Inputs) -> None:
        """Loads the labeller. Raises `FatalError` when it can't be used."""
        (self._opened,) = self.settings.plugin.open((), self.worker)

    def run(self, inputs: Inputs, work: Path, report: ReportProgress) -> Output:
        """Asks about the labels of each image that has any."""
        tagged = inputs.artifact("relations")
        kept = judged_labels(tagged.table("relations"), tagged.table("candidates"), self.settings.kept).kept()
        rows = [row for row in inputs.table("images").to_pylist() if kept.get(row["image_id"])]
        size = self._opened.image_size
        images = [tagging_image(row, _pairs(kept[row["image_id"]]), size, self.image_folders) for row in rows]
        found = self._opened.labeller.label(images, lambda done: report(done, len(rows)))
        rejected, opinions = [], []
        for row, labels in zip(rows, found, strict=True):
            if labels.problem:
                rejected.append(Rejected(row["image_id"], labels.problem.reason, labels.problem.value))
                continue
            said = [
                {"subject": r.subject, "predicate": r.predicate, "object": r.object, "probability": r.score}
                for r in labels.relations
                if r.proposed
            ]
            opinions.append({"image_id": row["image_id"], "verifier": self._opened.digest, "opinions": said})
        table, facts = pa.Table.from_pylist(opinions, schema=OPINIONS), tokens_taken(self._opened.labeller)
        return Output(table, rejected=rejected, rows_in=len(rows), facts=facts)


def _pairs(labels: Sequence[SampleRelation]) -> list[Pair]:
    """Labels as candidates that a caption proposes."""
    return [Pair(r.subject, r.object, r.predicate, number, 1) for number, r in enumerate(labels)]
