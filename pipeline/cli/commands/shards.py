"""The commands `rlip shards ...`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.commands.options import STORE, AsJson, RunName, StorePath
from pipeline.cli.errors import errors_reported

commands = typer.Typer(
    no_args_is_help=True, help="WebDataset tars: index, list, describe, verify, preview and publish them."
)
LOADER = "Also write the index of this loader: wids or energon. Can be repeated."
Tars = Annotated[list[Path], typer.Argument(metavar="TAR...", help="WebDataset tars, of this project or any other.")]


@commands.command("index")
def index_shards(
    tars: Tars,
    formats: Annotated[list[str] | None, typer.Option("--format", metavar="LOADER", help=LOADER)] = None,
    keep_damaged: Annotated[
        bool, typer.Option("--keep-damaged", help="Of a damaged tar, index what lies before the damage.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write each tar's index beside it (X.index.parquet), and name the entries that it leaves out; damaged tars get no index."""
    from pipeline.cli.shards import index_shards
    from pipeline.interop.publish_shards import loaders

    with errors_reported():
        index_shards(tars, loaders(formats or []), keep_damaged, as_json)


@commands.command("ls")
def list_shards(
    tars: Tars, as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per sample.")] = False
) -> None:
    """List the samples of tars, one per line: key, and members with their sizes."""
    from pipeline.cli.shards import list_shards

    with errors_reported():
        list_shards(tars, as_json)


@commands.command("info")
def describe_shards(tars: Tars, as_json: AsJson = False) -> None:
    """Say what tars hold: samples, bytes, members, image formats; of this project's labels also boxes, relations, names."""
    from pipeline.cli.shards import describe_shards

    with errors_reported():
        describe_shards(tars, as_json)


@commands.command("verify")
def verify_shards(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Tars, or folders of published copies.")],
    as_json: AsJson = False,
) -> None:
    """Compare tars with indexes, and published folders with checksums; name every fault; exits with 1 if there are faults."""
    from pipeline.cli.shards import verify_shards

    with errors_reported():
        verify_shards(paths, as_json)


@commands.command("preview")
def preview_shard(
    tar: Annotated[Path, typer.Argument(metavar="TAR", help="A WebDataset tar.")],
    out: Annotated[Path, typer.Option("--out", help="The PNG file to write.")] = Path("preview.png"),
    samples: Annotated[int, typer.Option("--samples", min=1, max=100, help="Number of samples to show.")] = 8,
) -> None:
    """Draw the first samples of a tar, with boxes and relations, as one PNG; list those without an image."""
    from pipeline.cli.shard_preview import preview_shard

    with errors_reported():
        preview_shard(tar, out, samples)


@commands.command("publish")
def publish_shards(
    run_name: RunName,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A new folder to write.")],
    step: Annotated[str, typer.Option("--step", help="The step whose shards are published.")] = "shard:pseudo",
    license_: Annotated[
        str, typer.Option("--license", help="As the Hugging Face hub names it, e.g. cc-by-4.0.")
    ] = "unknown",
    indexes: Annotated[list[str] | None, typer.Option("--index", metavar="LOADER", help=LOADER)] = None,
    store: StorePath = STORE,
    as_json: AsJson = False,
) -> None:
    """Write a run's shards as a folder to release: tars, indexes, statistics, dataset card, Croissant metadata, checksums."""
    from pipeline.interop.publish_shards import loaders, print_publish
    from storage.open_store import existing_store
    from storage.runs import find_run

    with errors_reported():
        run = find_run(existing_store(store), run_name)
        print_publish(run, folder, step, license_, loaders(indexes or []), as_json)
