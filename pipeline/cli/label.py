"""Implements `rlip label`: the whole chain on a folder of images that no one annotated."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from pipeline.cli.run import run_context
from pipeline.data.datasets.bare_images import id_of_name, image_names
from pipeline.data.images.folders import open_folder
from pipeline.interop.label_files import LabelFiles, write_label_files
from pipeline.report.formatting import sanitise
from pipeline.run.context import RunContext
from pipeline.run.recipe import Recipe
from pipeline.run.recipe_files import RecipeValues, recipe_of
from pipeline.runtime.settings import apply_override
from storage.errors import FatalError

COMMAND = Path("rlip label")
"""Stands for the file of the recipe in errors."""
PARTITION = 100
"""Images per partition: small enough that two workers share a folder of a few hundred images."""
NAMED = 20
"""Pictures without labels that are printed; `--json` prints all."""


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
        """Name of the run and of its dataset: as asked for, or that of the folder."""
        last = self.folder.rstrip("/").rpartition("/")[2] if "://" in self.folder else Path(self.folder).resolve().name
        return self.name or re.sub(r"[^A-Za-z0-9._-]+", "-", last).strip("-._") or "pictures"

    def recipe(self) -> Recipe:
        """The recipe that does it: one dataset, its boxes from the detector, and the tagger taken over.

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
            # A folder from the web has files that are no images. They are named in the end, and don't stop the rest.
            "run": {"checks": {"max_overall_reject_share": 1.0}},
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
    """Run the chain up to the labels, write them to `out` (unset: out/labels/RUN), and print where they are.

    Images that can't be used are named and left out. Raises `FatalError` when none can.
    """
    context = RunContext(request.recipe())
    run_context(context, "direct", as_json)
    left_out = _left_out(context)
    made = write_label_files(context.run, out or Path("out/labels") / context.recipe.name)
    if not made.images:
        raise FatalError(f"{request.folder}: none of its {len(left_out)} images can be used:{_listed(left_out)}")
    if as_json:
        print(json.dumps({"event": "labels", **asdict(made), "left_out": left_out}))
        return made
    console = Console()
    counts = f"{made.images:,} images, {made.boxes:,} boxes, {made.captions:,} captions → {made.labels:,} labels"
    for line in (counts, f"Labels: {made.json}", f"Labels: {made.parquet}"):
        console.print(Text(line), soft_wrap=True)
    if left_out:
        console.print(Text(f"Left out {len(left_out):,}:{_listed(left_out)}"), soft_wrap=True)
    return made


def _left_out(context: RunContext) -> dict[str, str]:
    """Name of each image that can't be read, or is left out for another reason → the reason."""
    (source,) = context.recipe.data.sources
    names = {id_of_name(name): name for name in image_names(open_folder(source.image_root))}
    found: dict[str, str] = {}
    for step in ("ingest", "detect"):
        for artifact in context.run.artifacts(step).values():
            for row in artifact.rejected().to_pylist():
                name = names.get(row["image_id"], str(row["image_id"]))
                found.setdefault(name, f"{row['reason']} ({row['value']})" if row["value"] else row["reason"])
    return found


def _listed(left_out: Mapping[str, str]) -> str:
    """The first images with their reasons, one a line."""
    lines = [sanitise(f"{name}: {reason}", 400) for name, reason in list(left_out.items())[:NAMED]]
    more = [f"and {len(left_out) - NAMED:,} more; --json lists them all"] if len(left_out) > NAMED else []
    return "".join(f"\n  {line}" for line in [*lines, *more])
