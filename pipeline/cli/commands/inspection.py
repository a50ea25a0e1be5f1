"""Commands that show, explain, compare and query runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.commands.options import STORE, AsJson, RunName, StorePath, VerdictsFolder
from pipeline.cli.errors import errors_reported


def show(
    run_name: Annotated[str | None, typer.Argument(metavar="[RUN]", help="A run; lists all runs if omitted.")] = None,
    step: Annotated[str | None, typer.Argument(metavar="[STEP]", help="E.g. shard:pseudo; adds sample rows.")] = None,
    store: StorePath = STORE,
    as_json: AsJson = False,
) -> None:
    """Show the steps of a run: rows in, rows out, rows rejected by reason, time and size; with STEP also sample rows."""
    from rich.console import Console

    from pipeline.cli.show import show_run
    from storage.open_store import existing_store

    with errors_reported():
        show_run(Console(), existing_store(store), run_name, step, as_json)


def runs(
    run_name: Annotated[str | None, typer.Argument(metavar="[RUN]", help="A run; all runs if omitted.")] = None,
    store: StorePath = STORE,
    as_json: AsJson = False,
) -> None:
    """List what was executed: each record of a run with its time, host and outcome; RUN@2 names the state after the second."""
    from pipeline.cli.runs import show_records

    with errors_reported():
        show_records(store, run_name, as_json)


def checks(run_name: RunName, store: StorePath = STORE, as_json: AsJson = False) -> None:
    """Show the checks of a run's partitions (run.checks): limits, the worst value of each step, and what failed."""
    from pipeline.cli.checks import print_checks

    with errors_reported():
        print_checks(store, run_name, as_json)


def why(
    run_name: RunName,
    stage: Annotated[str, typer.Argument(metavar="STEP", help="A step of the run, e.g. tag or shard:pseudo.")],
    partition: Annotated[
        str | None, typer.Argument(metavar="[PARTITION]", help="E.g. coco/0003; default: all.")
    ] = None,
    store: StorePath = STORE,
    as_json: AsJson = False,
) -> None:
    """Explain why a step was computed, not reused: the first difference from the most similar artifact in the store."""
    from pipeline.cli.why import print_why

    with errors_reported():
        print_why(store, run_name, stage, partition, as_json)


def explain(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="An id (42), dataset and id (coco/42), or file name.")],
    run_name: Annotated[str | None, typer.Argument(metavar="[RUN]", help="Required if there are several.")] = None,
    store: StorePath = STORE,
    as_json: AsJson = False,
) -> None:
    """Trace the labels of an image: its file, boxes and captions, the words and score of each label, its place in a shard."""
    from pipeline.cli.lineage import print_lineage

    with errors_reported():
        print_lineage(store, image, run_name, as_json)


def batch(
    run_name: RunName,
    step: Annotated[int, typer.Argument(metavar="STEP", min=1, help="A step of the training, counted from 1.")],
    step_name: Annotated[
        str | None,
        typer.Option("--step-name", help="E.g. pretrain:pseudo or train_tagger; required if there are several."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Draw the images to this PNG file.")] = None,
    store: StorePath = STORE,
    as_json: AsJson = False,
) -> None:
    """Name the images of a step of a training run, and draw them as the network saw them, with their boxes and relations."""
    from pipeline.cli.batch import print_batch

    with errors_reported():
        print_batch(store, run_name, step, step_name, out, as_json)


def diff(
    before: Annotated[str, typer.Argument(metavar="RUN_A", help="The run to compare with (before).")],
    after: Annotated[str, typer.Argument(metavar="RUN_B", help="The run to examine (after).")],
    store: StorePath = STORE,
    verdicts: VerdictsFolder = None,
    as_json: AsJson = False,
) -> None:
    """Compare the relations of two runs: which were added, lost or re-scored, and which change caused it."""
    from pipeline.cli.diff import print_diff

    with errors_reported():
        print_diff(store, before, after, as_json, verdicts)


def query(
    run_name: RunName,
    sql: Annotated[str, typer.Argument(metavar="SQL", help="E.g. 'select count(*) from images'.")],
    out: Annotated[Path | None, typer.Option("--out", help="Write all rows to this new .csv or .parquet file.")] = None,
    store: StorePath = STORE,
    as_json: AsJson = False,
) -> None:
    """Run an SQL query (DuckDB) on the tables of a run: labels (one row each), images, captions, triplets, rejected, ..."""
    from pipeline.cli.query import print_query

    with errors_reported():
        print_query(store, run_name, sql, as_json, out)


def report(
    run_name: RunName,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder to write a copy to, which `rlip rm` leaves; unset: where the run's report lies."),
    ] = None,
    pictures: Annotated[
        int, typer.Option(min=0, help="Pictures drawn at random; half as many of the hardest come beside them.")
    ] = 24,
    seed: Annotated[int, typer.Option(min=0, help="Seed that the images are drawn with.")] = 0,
    against: Annotated[
        list[str] | None,
        typer.Option(
            "--against", metavar="RUN", help="Draw its training runs and this run's in one chart each. Can be repeated."
        ),
    ] = None,
    store: StorePath = STORE,
    as_json: AsJson = False,
) -> None:
    """Write the report of a run anew, also of an older execution (RUN@2) or of a run that was pulled or imported."""
    from pipeline.cli.report import write_run_report

    with errors_reported():
        write_run_report(store, run_name, out, pictures, as_json, against or [], seed)
