"""Lists the `rlip` commands. Each command's file is imported only when it is called, so `--help` responds at once."""

from __future__ import annotations

import atexit
import gc
import importlib.metadata
import re
import sys
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from pipeline.cli.errors import errors_reported

COMMANDS = {
    "Run": {
        "run": "Run a recipe: compute what the store lacks, then write the report.",
        "plan": "Show what a run would compute, and why.",
        "estimate": "Estimate the time, disk space and cost of a run.",
        "doctor": "Check that data, weights and machine suit a recipe.",
        "label": "Label a folder of images without a recipe.",
        "recipe": "Recipes: show all settings, check, compare, rehearse.",
    },
    "Look": {
        "show": "Show runs, their steps, executions and checks, and sample rows.",
        "explain": "Trace the labels of an image back to its captions and boxes.",
        "why": "Explain why a step was computed and not reused.",
        "parse": "Show the triplets that a caption states.",
        "query": "Query the tables of a run with SQL.",
        "diff": "Compare two runs: relations, settings and figures.",
        "report": "Write the report of a run again.",
    },
    "Judge": {
        "evaluate": "Score detections by the rules of a public benchmark.",
        "review": "Serve the page for judging labels.",
        "verdicts": "Verdicts: summary, thresholds, calibration, import.",
    },
    "Exchange": {
        "import": "Import files of the RLIPv2 authors, or scene graphs, into a run.",
        "export": "Export captions, triplets and labels to another format.",
        "shards": "WebDataset tars: index, list, verify, draw, publish.",
    },
    "Data and weights": {
        "data": "Datasets: download, list, draw a synthetic one, convert.",
        "weights": "Weights: train a tagger, import, export, show.",
        "predict": "Find boxes and relations in images.",
    },
    "Store and cluster": {
        "store": "The store: verify, clean, measure, copy runs, export lineage.",
        "cluster": "Several nodes: join a run, Slurm script, Prefect's pages.",
    },
}
"""Panel → command → its line in `rlip --help`. The file of a command has its name and a function of that name or,
for subcommands, a `typer.Typer` named `commands`."""
FORMER = {
    "batch": "shards batch",
    "checks": "show --checks",
    "convert": "data convert",
    "du": "store du",
    "gc": "store gc",
    "join": "cluster join",
    "lineage": "store lineage",
    "pull": "store pull",
    "push": "store push",
    "rehearse": "recipe rehearse",
    "rm": "store rm",
    "runs": "show --history",
    "scenes": "data scenes",
    "server": "cluster server",
    "slurm": "cluster slurm",
    "train-tagger": "weights train-tagger",
    "verify": "store verify",
}
"""Name of a command before release 0.2.0 → its present name. The next release drops the former names."""


class Commands(TyperGroup):
    """The commands in `COMMANDS`: their lines in `rlip --help`, and each as declared in its file once it is called."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = {
            name: TyperCommand(name, help=line, rich_help_panel=panel)
            for panel, names in COMMANDS.items()
            for name, line in names.items()
        }

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """The command that the arguments call, by its present or former name, and the remaining arguments."""
        if now := FORMER.get(args[0]):
            typer.echo(f"Warning: `rlip {args[0]}` is now `rlip {now}`", err=True)
            args = [*now.split(), *args[1:]]
        # A shell leaves the `~` of --store=~/store and of --set data.root=~/coco.
        args = [re.sub(r"^([\w.-]+=)?~(?=/|$)", lambda found: f"{found[1] or ''}{Path.home()}", word) for word in args]
        name, _, rest = super().resolve_command(ctx, args)
        return name, name and _loaded(name), rest

    def invoke(self, ctx: Any) -> Any:
        """Run a command. An error in its input becomes a message and an exit code."""
        with errors_reported():
            return super().invoke(ctx)


def declared(name: str) -> typer.Typer:
    """A command with its subcommands, as its file declares it, in a separate Typer."""
    own = name.replace("import", "import_")  # a keyword of Python
    module = importlib.import_module(f"pipeline.cli.{own}")
    around = typer.Typer()
    if hasattr(module, "commands"):
        line = next(names[name] for names in COMMANDS.values() if name in names)
        around.add_typer(module.commands, name=name, help=line)
    else:
        around.command(name)(getattr(module, own))
    return around


@cache
def _loaded(name: str) -> Any:
    return typer.main.get_group(declared(name)).commands[name]


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    help="RLIPv2 as one pipeline: raw detection images → captions → relations → pre-trained, evaluated weights.",
)


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """The options of `rlip` itself; everything else is in commands."""


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"rlip {importlib.metadata.version('rlip')}")
        raise typer.Exit


@atexit.register
def _end_at_once() -> None:
    """Skip the last garbage collection: a sixth of a short command's time, and Triton would report leaks there."""
    if "torch" not in sys.modules:
        gc.freeze()
