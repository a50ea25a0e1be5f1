"""`rlip label`: the whole chain on a folder of unannotated images."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Annotated, Any
from zlib import crc32

import typer
from rich.console import Console
from rich.text import Text

from pipeline.cli.errors import resumable
from pipeline.cli.options import STORE, AsJson, Overrides, StorePath, Tokenizer, printed
from pipeline.cli.run import run_context
from pipeline.data.datasets.bare_images import id_of_name, image_names
from pipeline.data.images.folders import open_folder
from pipeline.evaluation.detections.names import distinct
from pipeline.interop.label_files import JSON, PARQUET, write_label_files
from pipeline.report.formatting import sanitise
from pipeline.run.context import RunContext
from pipeline.run.recipe import Recipe
from pipeline.run.recipe_files import RecipeValues, recipe_of
from pipeline.runtime.settings import apply_override
from pipeline.runtime.wording import counted
from storage.errors import FatalError
from storage.open_store import open_store
from storage.runs import Run

COMMAND = Path("rlip label")
"""Shown in errors instead of a recipe file."""
PARTITION = 100
"""Images per partition: small enough that two workers share a folder of a few hundred images."""
NAMED = 20
"""Images without labels that are printed; `--json` prints all."""


def label_recipe(
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="Images without annotations: a folder, tar or URL.")],
    tagger: Annotated[str, typer.Option("--tagger", help="A Relation Tagger: weights, their folder, or a run.")],
    detector: Annotated[
        str,
        typer.Option(
            "--detector", help="Detector: a transformers folder or hub name, .pth, .onnx, weights, or .json of boxes."
        ),
    ],
    captioner: Annotated[
        str | None, typer.Option("--captioner", help="BLIP's folder or name; unset: BLIP large.")
    ] = None,
    categories: Annotated[
        str | None, typer.Option("--categories", metavar="A,B", help="Names of boxes; unset: the detector's.")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option("--threshold", min=0, max=1, help="Exclude boxes with a lower score; unset: 0.5.")
    ] = None,
    tokenizer: Tokenizer = None,
    hub: Annotated[bool, typer.Option("--hub", help="Allow downloads from the Hugging Face Hub.")] = False,
    run_name: Annotated[
        str | None, typer.Option("--as", metavar="RUN", help="Name of the run; unset: FOLDER's.")
    ] = None,
    overrides: Overrides = None,
    store: StorePath = STORE,
) -> Recipe:
    """Label unannotated images: detect boxes, caption, parse and tag them in one cached run, and write the labels.

    Unusable images are named and skipped.
    """
    name = run_name or _run_name(folder)
    images = folder if "://" in folder else str(Path(folder).resolve())
    opened = open_store(store)
    opened.refresh()
    sources = Run(opened, name).read_document("recipe").get("data", {}).get("sources", [{}])
    earlier, now = sources[0].get("images", images).rstrip("/"), images.rstrip("/")  # one that is gone has moved
    if now not in (earlier, str(Path(earlier).resolve())) and ("://" in earlier or Path(earlier).exists()):
        raise FatalError(f"run {name!r} has labels of {earlier}; give the run of {folder} another name with --as")
    listed = (categories or "").split(",")
    names = distinct(listed, known=listed)  # as they are, so that an earlier run's boxes are found
    detect: dict[str, Any] = {"weights": detector, "categories": names, "hub": hub}
    caption: dict[str, Any] = {"hub": hub}
    values: dict[str, Any] = {
        "name": name,
        "store": store,
        "data": {
            "partition_size": PARTITION,
            "sources": [{"name": name, "format": "images", "images": images}],
            "label": [name],
        },
        "detect": detect,
        "caption": caption,
        "tag": {"weights": tagger},
        # A folder from the web has files that are not images. They are named at the end, and don't stop the rest.
        "run": {"checks": {"max_overall_reject_share": 1.0}},
    }
    if threshold is not None:
        detect["threshold"] = threshold
    if captioner is not None:
        caption["model"] = captioner
    if tokenizer is not None:
        detect["tokenizer"] = str(tokenizer)
        values["train_tagger"] = {"tokenizer": str(tokenizer)}
    for override in overrides or []:
        apply_override(values, override)
    return recipe_of(RecipeValues(COMMAND, values, {}))


@resumable()
def _label(
    recipe: Recipe,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for the labels; unset: out/labels/RUN.")] = None,
    as_json: AsJson = False,
) -> None:
    context = RunContext(recipe)
    run_context(context, direct=True, as_json=as_json)
    left_out = require_usable(context)
    written = write_label_files(context.run, out or Path("out/labels") / recipe.name)
    if as_json:
        print(json.dumps({"event": "labels", **asdict(written), "left_out": left_out}))
        return
    console = Console(markup=False)
    boxes, captions = counted(written.boxes, "box"), counted(written.captions, "caption")
    counts = f"{counted(written.images, 'image')}, {boxes}, {captions} → {counted(written.labels, 'label')}"
    for line in (counts, f"Labels: {written.json}", f"Labels: {written.parquet}"):
        console.print(Text(line), soft_wrap=True)
    if left_out:
        hint = "; --json lists them all" if len(left_out) > NAMED else ""
        console.print(Text(f"Skipped {len(left_out):,}:{_listed(left_out)}{hint}"), soft_wrap=True)


label = printed(label_recipe, _label)


def _run_name(folder: str) -> str:
    """Name of the run and its dataset, after the folder. Names that differ in non-ASCII letters stay distinct."""
    last = folder.rstrip("/").rpartition("/")[2] if "://" in folder else Path(folder).resolve().name
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", last)[:80].strip("-._") or "pictures"
    return name if last.isascii() else f"{name}-{crc32(last.encode(errors='surrogateescape')):08x}"


def require_usable(context: RunContext) -> dict[str, str]:
    """Name of each image that can't be read, or is skipped for another reason → the reason.

    Files of other formats are counted by their extension. Raises `FatalError` if no image is left.
    """
    (source,) = context.recipe.data.sources
    folder = open_folder(source.image_root)
    names = {id_of_name(name): name for name in image_names(folder)}
    others = (PurePosixPath(name) for name in set(folder.names()) - set(names.values()))
    endings = Counter(path.suffix for path in others if path.name not in (JSON, PARQUET))  # which this command writes
    reasons = {f"*{ending}": f"not a supported image format ({count})" for ending, count in sorted(endings.items())}
    for step in ("ingest", "detect"):
        for artifact in context.run.artifacts(step).values():
            for row in artifact.rejected().to_pylist():
                name = names.get(row["image_id"], str(row["image_id"]))
                reasons.setdefault(name, f"{row['reason']} ({row['value']})" if row["value"] else row["reason"])
    if reasons.keys() >= set(names.values()):
        raise FatalError(f"{source.images}: none of its {len(names)} images can be used:{_listed(reasons)}")
    return reasons


def _listed(left_out: Mapping[str, str]) -> str:
    """The first images with their reasons, one per line."""
    lines = [sanitise(f"{name}: {reason}", 400) for name, reason in list(left_out.items())[:NAMED]]
    more = [f"and {len(left_out) - NAMED:,} more"] if len(left_out) > NAMED else []
    return "".join(f"\n  {line}" for line in [*lines, *more])
