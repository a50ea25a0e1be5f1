"""The commands `rlip verdicts ...`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from pipeline.cli.commands.options import STORE, AsJson, RunName, StorePath, VerdictsFolder
from pipeline.cli.errors import errors_reported

commands = typer.Typer(
    no_args_is_help=True, help="Verdicts of reviewers on labels: summary, thresholds, and import from annotation tools."
)


@commands.command("show")
def show(
    run_name: Annotated[
        str | None, typer.Argument(metavar="[RUN]", help="A run whose precision the verdicts tell.")
    ] = None,
    folder: VerdictsFolder = None,
    seed: Annotated[int, typer.Option(help="Seed of the random sample that was judged.")] = 0,
    store: StorePath = STORE,
    as_json: AsJson = False,
) -> None:
    """Count verdicts by kind, reviewer and predicate; show agreement (kappa) and the precision of a run's labels."""
    from pipeline.cli.verdicts import print_verdicts

    with errors_reported():
        print_verdicts(store, run_name, folder, seed, as_json)


@commands.command("thresholds")
def thresholds(
    run_name: RunName,
    precision: Annotated[float, typer.Option(min=0, max=1, help="Precision that labels shall reach.")] = 0.9,
    fewest: Annotated[int, typer.Option(min=1, help="Sure verdicts that a predicate needs.")] = 20,
    folder: VerdictsFolder = None,
    store: StorePath = STORE,
    as_json: AsJson = False,
) -> None:
    """Propose a threshold for each predicate with enough verdicts, as a section [shard.thresholds]."""
    from pipeline.cli.verdicts import print_thresholds

    with errors_reported():
        print_thresholds(store, run_name, folder, precision, fewest, as_json)


@commands.command("calibration")
def calibration(
    run_name: RunName,
    fewest: Annotated[int, typer.Option(min=1, help="Sure verdicts that are needed in all.")] = 100,
    folder: VerdictsFolder = None,
    store: StorePath = STORE,
    as_json: AsJson = False,
) -> None:
    """Fit probabilities of scores on verdicts, as a section [shard.calibration]."""
    from pipeline.cli.verdicts import print_calibration

    with errors_reported():
        print_calibration(store, run_name, folder, fewest, as_json)


@commands.command("import")
def import_annotations(
    run_name: RunName,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSON of Label Studio, or XML of CVAT for images 1.1.")],
    reviewer: Annotated[str, typer.Option(help="Who annotated the file.")],
    form: Annotated[
        Literal["label_studio", "cvat"] | None, typer.Option("--format", help="Default: by the name's ending.")
    ] = None,
    additions_only: Annotated[
        bool, typer.Option("--additions-only", help="A label that the file lacks is not rejected by that.")
    ] = False,
    folder: VerdictsFolder = None,
    store: StorePath = STORE,
    as_json: AsJson = False,
) -> None:
    """Turn the relations of an annotation tool into verdicts: labels kept, removed, renamed and added."""
    from pipeline.cli.verdicts import print_import

    with errors_reported():
        print_import(store, run_name, file, form, reviewer, folder, additions_only, as_json)
