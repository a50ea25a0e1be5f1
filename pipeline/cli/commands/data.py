"""The commands `rlip data ...`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.commands.options import AsJson
from pipeline.cli.errors import errors_reported

commands = typer.Typer(no_args_is_help=True, help="Public datasets and weights: download them and show what is there.")
DataRoot = Annotated[Path, typer.Option("--root", help="The folder that recipes call data.root.")]
DATA = Path("data")


@commands.command("get")
def get_data(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME]...",
            help="coco, objects365, visual_genome, hico_det, vcoco, blip or roberta; lists all if omitted.",
        ),
    ] = None,
    root: DataRoot = DATA,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="PART", help="Only this part, e.g. val. Can be repeated.")
    ] = None,
    mirror: Annotated[
        str | None,
        typer.Option(envvar="RLIP_MIRROR", metavar="URL", help="Get https://host/path from URL/host/path instead."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Download public datasets and weights to where the recipes look for them; resumes, verifies and unpacks."""
    from pipeline.cli.data import get_data

    with errors_reported(resumes=True):
        get_data(names or [], root, only or [], mirror, as_json)


@commands.command("list")
def list_data(root: DataRoot = DATA, as_json: AsJson = False) -> None:
    """List the public datasets and weights: official page, size, what goes where, and whether it is there."""
    from pipeline.cli.data import list_data

    with errors_reported():
        list_data(root, as_json)
