"""`rlip export`: exports a run to another format."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.options import STORE, AsJson, Masks, RunName, StorePath
from pipeline.interop.export_run import export_run, print_export
from pipeline.runtime.plugins import plugin_names
from storage.open_store import existing_store
from storage.runs import find_run


def export(
    run_name: RunName,
    form: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help=f"One of {', '.join(plugin_names('exports'))}. official: the files of the RLIPv2 authors; hf: Hugging "
            "Face datasets; cooccurrence: for tag.cooccurrence.",
        ),
    ] = "official",
    out: Annotated[Path | None, typer.Option("--out", help="A new folder; out/export/RUN-FORMAT if omitted.")] = None,
    threshold: Annotated[float, typer.Option(min=0, max=1, help="Exclude relations with a lower score.")] = 0.0,
    all_scores: Annotated[
        bool, typer.Option("--all", help="Export every scored relation, not only those that the run keeps.")
    ] = False,
    masks: Masks = None,
    store: StorePath = STORE,
    as_json: AsJson = False,
) -> None:
    """Export the captions, triplets, candidates and labels of a run; report what the chosen format cannot represent."""
    run = find_run(existing_store(store), run_name)
    folder = out or Path("out/export") / f"{run_name}-{form}"
    print_export(export_run(run, form, folder, threshold, all_scores, masks), as_json)
