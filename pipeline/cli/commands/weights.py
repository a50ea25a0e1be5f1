"""The commands `rlip weights ...`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.commands.options import AsJson
from pipeline.cli.errors import errors_reported

NETWORK_SET = "Override a setting of the network, e.g. text.heads=4. Can be repeated."
commands = typer.Typer(
    no_args_is_help=True, help="Weights files: import and export official checkpoints, and show what a file holds."
)
CheckpointPath = Annotated[Path, typer.Argument(metavar="FILE", help="A checkpoint (.pth) or a .safetensors file.")]


@commands.command("import")
def import_weights(
    file: CheckpointPath,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The .safetensors file to write.")],
    args: Annotated[
        Path | None, typer.Option(help="A JSON file with the settings of the training, for checkpoints that lack them.")
    ] = None,
    text: Annotated[
        Path | None, typer.Option(help="For a detector: folder with model.safetensors of roberta-base.")
    ] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help=NETWORK_SET)] = None,
    seed: Annotated[int, typer.Option(help="Random seed for parameters that a detector checkpoint lacks.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Convert a checkpoint of RLIPv2, R-Tagger or (DAB-)Deformable-DETR into weights of this project."""
    from pipeline.cli.weights import import_weights

    with errors_reported():
        import_weights(file, out, args, overrides or [], seed, as_json, text)


@commands.command("export")
def export_weights(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .safetensors file of this project.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The .pth file to write.")],
    as_json: AsJson = False,
) -> None:
    """Convert weights of this project into a checkpoint that the authors' code loads, and tell what differs there."""
    from pipeline.cli.weights import export_weights

    with errors_reported():
        export_weights(file, out, as_json)


@commands.command("show")
def show_weights(file: CheckpointPath, as_json: AsJson = False) -> None:
    """Show what a weights file holds: network, settings and the sizes of its parts."""
    from pipeline.cli.weights import show_weights

    with errors_reported():
        show_weights(file, as_json)
