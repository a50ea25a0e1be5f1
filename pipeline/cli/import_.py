"""`rlip import`: imports a file of the RLIPv2 authors, or scene graphs of a model, into a run."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from pipeline.cli.options import STORE, AsJson, StorePath
from pipeline.interop.import_file import ImageFiles, import_file
from storage.open_store import open_store
from storage.runs import Run


def import_(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="JSON from the RLIPv2 authors, of any kind, or a model's scene graphs (.jsonl)."
        ),
    ],
    run_name: Annotated[str, typer.Option("--as", metavar="RUN", help="Name of the run to import into.")],
    dataset: Annotated[
        str | None, typer.Option(help="Name of the dataset; default: as in the file, else imported.")
    ] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of the images, to read sizes and clip boxes.")] = None,
    paths: Annotated[Path | None, typer.Option(help="The image_id_to_filepath.json of Objects365.")] = None,
    store: StorePath = STORE,
    as_json: AsJson = False,
) -> None:
    """Import captions, graphs, candidates, labels or name frequencies as steps of a run; quarantine invalid rows."""
    opened = open_store(store)
    opened.refresh()
    result = import_file(file, Run(opened, run_name), dataset, ImageFiles(images, paths))
    if as_json:
        print(json.dumps(asdict(result)))
        return
    console = Console(markup=False)
    console.print(f"{result.images} images, {result.kind}: steps {', '.join(result.steps)} of run {result.run}")
    for reason, number in result.noted.items():
        console.print(f"  {number} x {reason}")
