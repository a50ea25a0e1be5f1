"""Lists the `rlip` commands. Heavy imports stay inside the commands so that `--help` responds at once."""

from __future__ import annotations

import atexit
import gc
import importlib.metadata
import sys
from typing import Annotated

import typer

from pipeline.cli.commands import (
    data,
    exchange,
    hosts,
    inspection,
    labels,
    predictions,
    recipe,
    review,
    running,
    server,
    shards,
    store,
    verdicts,
    weights,
)

app = typer.Typer(
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    help="RLIPv2 as one pipeline: raw detection images → captions → relations → pre-trained and evaluated weights.",
)
app.command("run")(running.run)
app.command("label")(labels.label)
app.command("predict")(predictions.predict)
app.command("evaluate")(predictions.evaluate)
app.command("convert")(exchange.convert)
app.command("train-tagger")(running.train_tagger)
app.command("plan")(running.plan)
app.command("estimate")(running.estimate)
app.command("show")(inspection.show)
app.command("runs")(inspection.runs)
app.command("checks")(inspection.checks)
app.command("why")(inspection.why)
app.command("explain")(inspection.explain)
app.command("batch")(inspection.batch)
app.command("diff")(inspection.diff)
app.command("query")(inspection.query)
app.command("push")(exchange.push)
app.command("pull")(exchange.pull)
app.command("export")(exchange.export)
app.command("import")(exchange.import_)
app.command("lineage")(exchange.lineage)
app.command("report")(inspection.report)
app.command("review")(review.review)
app.command("server")(server.server)
app.command("verify")(store.verify)
app.command("gc")(store.gc)
app.command("du")(store.du)
app.command("rm")(store.rm)
app.command("parse")(labels.parse)
app.command("scenes")(running.scenes)
app.command("doctor")(running.doctor)
app.command("join")(hosts.join)
app.command("slurm")(hosts.slurm)
app.add_typer(recipe.commands, name="recipe")
app.add_typer(weights.commands, name="weights")
app.add_typer(data.commands, name="data")
app.add_typer(shards.commands, name="shards")
app.add_typer(verdicts.commands, name="verdicts")


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """The options of `rlip` itself; everything else is a command."""


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"rlip {importlib.metadata.version('rlip')}")
        raise typer.Exit


@atexit.register
def _end_at_once() -> None:
    """Spares a short command the last search for garbage, a sixth of its time. Triton, which torch loads, would report leaks."""
    if "torch" not in sys.modules:
        gc.freeze()
