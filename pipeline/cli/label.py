"""Implements `rlip label`: the whole chain on a folder of pictures that no one annotated."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from pipeline.cli.run import run_context
from pipeline.interop.label_files import LabelFiles, write_label_files
from pipeline.run.context import RunContext
from pipeline.run.recipe import Recipe, recipe_of
from pipeline.run.recipe_files import RecipeValues
from pipeline.runtime.settings import apply_override

COMMAND = Path("rlip label")
"""Stands for the file of the recipe in errors."""
PARTITION = 100
"""Images per partition: small enough that two workers share a folder of a few hundred pictures."""


@dataclass(frozen=True)
class LabelRequest:
    """What `rlip label` was asked for."""

    folder: str
    tagger: str
    detector: str
    captioner: str | None = None
    categories: tuple[str, ...] = ()
    threshold: float | None = None
    tokenizer: Path | None = None
    hub: bool = False
    name: str | None = None
    store: str = "out/store"
    overrides: Sequence[str] = field(default=())

    @property
    def run_name(self) -> str:
        """Name of the run and of its data set: as asked for, or that of the folder."""
        last = self.folder.rstrip("/").rpartition("/")[2] if "://" in self.folder else Path(self.folder).resolve().name
        return self.name or re.sub(r"[^A-Za-z0-9._-]+", "-", last).strip("-._") or "pictures"

    def recipe(self) -> Recipe:
        """The recipe that does it: one data set, its boxes from the detector, and the tagger taken over.

        Raises `FatalError` that names the setting that can't be.
        """
        images = self.folder if "://" in self.folder else str(Path(self.folder).resolve())
        source = {"name": self.run_name, "format": "images", "images": images}
        detect: dict[str, Any] = {"weights": self.detector, "categories": list(self.categories), "hub": self.hub}
        caption: dict[str, Any] = {"hub": self.hub}
        values: dict[str, Any] = {
            "name": self.run_name,
            "store": self.store,
            "data": {"partition_size": PARTITION, "sources": [source], "label": [self.run_name]},
            "detect": detect,
            "caption": caption,
            "tag": {"weights": self.tagger},
        }
        if self.threshold is not None:
            detect["threshold"] = self.threshold
        if self.captioner is not None:
            caption["model"] = self.captioner
        if self.tokenizer is not None:
            detect["tokenizer"] = str(self.tokenizer)
            values["train_tagger"] = {"tokenizer": str(self.tokenizer)}
        for override in self.overrides:
            apply_override(values, override)
        return recipe_of(RecipeValues(COMMAND, values, {}))


def label_folder(request: LabelRequest, out: Path | None, as_json: bool) -> LabelFiles:
    """Run the chain up to the labels, write them to `out` (unset: out/labels/RUN), and print where they are."""
    context = RunContext(request.recipe())
    run_context(context, "direct", as_json)
    made = write_label_files(context.run, out or Path("out/labels") / context.recipe.name)
    if as_json:
        print(json.dumps({"event": "labels", **asdict(made)}))
        return made
    console = Console()
    counts = f"{made.images:,} pictures, {made.boxes:,} boxes, {made.captions:,} captions → {made.labels:,} labels"
    for line in (counts, f"Labels: {made.json}", f"Labels: {made.parquet}"):
        console.print(Text(line), soft_wrap=True)
    return made
