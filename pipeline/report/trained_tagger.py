"""What a training of the Relation Tagger came to: where its weights are, and what held-out images say of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.text import Text

from pipeline.report.console import share, table
from pipeline.training.config import MODEL
from storage.artifact import Artifact

_IN_WORDS = {
    "held_out_map": "mAP of predicates",
    "held_out_recall": "recall, two predicates a pair",
    "held_out_recall_20": "recall, 20 labels an image",
    "held_out_recall_50": "recall, 50 labels an image",
    "held_out_calibration_error": "calibration error of scores",
    "held_out_calibrated_error": "calibration error, calibrated",
}


@dataclass(frozen=True)
class TrainedTagger:
    """`scores`: the last measurement on held-out images; nothing when none were held out."""

    weights: str
    images: int
    """On which it was trained."""
    held_out: int
    scores: dict[str, float]

    @classmethod
    def of(cls, tagger: Artifact) -> TrainedTagger:
        """Read from the artifact of stage `train_tagger`."""
        last = {row["name"]: row["value"] for row in tagger.table("tagger").to_pylist()}
        return cls(
            weights=str(tagger.file(MODEL)),
            images=tagger.manifest.counts.rows_out,
            held_out=int(last.get("held_out_images", 0)),
            scores={name: round(last[name], 4) for name in _IN_WORDS if name in last},
        )

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def print(self, console: Console) -> None:
        """For reading; the weights' path comes last."""
        if self.scores:
            made = table(f"Tagger of {self.images:,} images, asked about {self.held_out:,} others", "measured", "")
            for name, score in self.scores.items():
                made.add_row(_IN_WORDS[name], share(score))
            console.print(made)
        console.print(Text(f"Weights: {self.weights}"), soft_wrap=True)
