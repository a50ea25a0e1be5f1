"""Result of training the Relation Tagger: the path of its weights, and its scores on held-out images."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.text import Text

from pipeline.report.formatting import share, table
from pipeline.training.config import MODEL
from storage.artifact import Artifact

_IN_WORDS = {
    "held_out_map": "predicate mAP",
    "held_out_recall": "recall, two predicates per pair",
    "held_out_recall_20": "recall, 20 labels per image",
    "held_out_recall_50": "recall, 50 labels per image",
    "held_out_calibration_error": "calibration error, raw scores",
    "held_out_calibrated_error": "calibration error, calibrated scores",
}


@dataclass(frozen=True)
class TrainedTagger:
    """A trained tagger. `scores` is the last measurement on held-out images; empty when none were held out."""

    weights: str
    images: int
    """Number of training images."""
    held_out: int
    scores: dict[str, float]

    @classmethod
    def of(cls, tagger: Artifact) -> TrainedTagger:
        """Reads the result from the artifact of stage `train_tagger`."""
        last = {row["name"]: row["value"] for row in tagger.table("tagger").to_pylist()}
        return cls(
            weights=str(tagger.file(MODEL)),
            images=tagger.manifest.counts.rows_out,
            held_out=int(last.get("held_out_images", 0)),
            scores={name: round(last[name], 4) for name in _IN_WORDS if name in last},
        )

    def as_json(self) -> dict[str, Any]:
        """The result as plain values."""
        return asdict(self)

    def print(self, console: Console) -> None:
        """Prints the scores; the path of the weights comes last."""
        if self.scores:
            made = table(f"Tagger of {self.images:,} images, scored on {self.held_out:,} held-out images", "metric", "")
            for name, score in self.scores.items():
                made.add_row(_IN_WORDS[name], share(score))
            console.print(made)
        console.print(Text(f"Weights: {self.weights}"), soft_wrap=True)
