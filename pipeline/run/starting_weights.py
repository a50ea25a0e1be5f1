"""Finds training runs that start from random weights although their network is meant for pre-trained ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from pipeline.run.dag import Step
from pipeline.training.settings import TrainingSettings

ROBERTA_BASE = {"hidden": 768, "layers": 12}
"""Text encoders from this size on learn nothing useful from the labels of a relation dataset alone."""


class RandomStart(NamedTuple):
    """A training run that starts such a network at random."""

    step: str
    what: str
    """What starts at random, in words."""
    refusal: str
    """Why the run is refused and what to set; "" if the recipe asks for a random start."""


def random_starts(steps: Iterable[Step]) -> Iterator[RandomStart]:
    """Yields the training runs among the steps that start a network for pre-trained weights from random ones."""
    for step in steps:
        if not isinstance(step.settings, TrainingSettings) or not (what := random_start(step.settings)):
            continue
        section = "train_tagger" if step.stage.name == "train_tagger" else "pretrain.settings"
        refusal = (
            f"{what}; set {section}.pretrained to converted weights (docs/training_recipes.md says how to get them), or "
            f"{section}.random_start = true if it is meant"
        )
        yield RandomStart(step.name, what, "" if step.settings.random_start else refusal)


def random_start(settings: TrainingSettings) -> str:
    """What starts at random although it is meant for pre-trained weights, in words; "" if nothing does."""
    if settings.pretrained is not None:
        return ""
    network = settings.network
    parts = []
    if network.backbone_norm == "frozen":
        parts.append(f'{network.backbone}, of which parts stay as they are (backbone_norm = "frozen")')
    if all(getattr(network.text, size) >= least for size, least in ROBERTA_BASE.items()):
        parts.append("a text encoder as large as roberta-base")
    return f"starts from random weights: {', and '.join(parts)}" if parts else ""
