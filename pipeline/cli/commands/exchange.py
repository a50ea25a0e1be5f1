"""Commands that copy runs between stores, and exchange runs and annotations with other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from pipeline.cli.commands.options import STORE, AsJson, Files, RunName, StorePath, Url
from pipeline.cli.errors import errors_reported


def push(
    run_name: RunName,
    url: Url,
    last: Annotated[
        bool, typer.Option("--last", help="Leave out artifacts that only earlier states need (RUN@1, ...).")
    ] = False,
    store: StorePath = STORE,
    as_json: AsJson = False,
) -> None:
    """Copy a run with all its states to another location. Only missing artifacts are copied, and the run appears last."""
    from pipeline.cli.transfer import print_push

    with errors_reported(resumes=True):
        print_push(store, run_name, url, last, as_json)


def pull(run_name: RunName, url: Url, store: StorePath = STORE, as_json: AsJson = False) -> None:
    """Copy a run from another location. Only missing artifacts are copied, and each is verified by its digest."""
    from pipeline.cli.transfer import print_pull

    with errors_reported(resumes=True):
        print_pull(store, run_name, url, as_json)


def export(
    run_name: RunName,
    form: Annotated[
        Literal["official", "vg", "coco", "hico", "parquet", "csv", "hf", "cooccurrence", "label_studio", "fiftyone"],
        typer.Option(
            "--format",
            help="official: the files of the RLIPv2 authors; hf: Hugging Face datasets; cooccurrence: for tag.cooccurrence.",
        ),
    ] = "official",
    out: Annotated[Path | None, typer.Option("--out", help="A new folder; out/export/RUN-FORMAT if omitted.")] = None,
    threshold: Annotated[float, typer.Option(min=0, max=1, help="Leave out relations with a lower score.")] = 0.0,
    all_scores: Annotated[
        bool, typer.Option("--all", help="Every scored relation, not only those that the run keeps.")
    ] = False,
    store: StorePath = STORE,
    as_json: AsJson = False,
) -> None:
    """Export the captions, triplets, candidates and labels of a run; report what the chosen format cannot represent."""
    from pipeline.interop.export_run import print_export
    from storage.open_store import existing_store
    from storage.runs import find_run

    with errors_reported():
        folder = out if out is not None else Path("out/export") / f"{run_name}-{form}"
        print_export(find_run(existing_store(store), run_name), form, folder, threshold, all_scores, as_json)


def lineage(
    run_name: RunName,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write to this new file, one event per line.")
    ] = None,
    url: Annotated[
        str | None,
        typer.Option("--url", help="Send to this lineage server, e.g. Marquez at http://127.0.0.1:5000."),
    ] = None,
    partitions: Annotated[
        bool, typer.Option("--partitions", help="Events for each partition, with the tables' places in the store.")
    ] = False,
    store: StorePath = STORE,
    as_json: AsJson = False,
) -> None:
    """Tell what a run read and wrote, down to columns, as OpenLineage events; prints them without --out and --url."""
    from pipeline.cli.run_lineage import print_lineage_events

    with errors_reported():
        print_lineage_events(store, run_name, out, url, partitions, as_json)


def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSON of the RLIPv2 authors; its kind is detected.")],
    run_name: Annotated[str, typer.Option("--as", metavar="RUN", help="Name of the run to import into.")],
    dataset: Annotated[
        str | None, typer.Option(help="Name of the dataset; default: as the file states, or imported.")
    ] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of the images, to read sizes and clamp boxes.")] = None,
    paths: Annotated[Path | None, typer.Option(help="The image_id_to_filepath.json of Objects365.")] = None,
    store: StorePath = STORE,
    as_json: AsJson = False,
) -> None:
    """Import captions, scene graphs, candidates, labels or name frequencies as steps of a run; quarantine invalid rows."""
    from pipeline.interop.import_file import ImageFiles, print_import
    from storage.open_store import open_store
    from storage.runs import Run

    with errors_reported():
        opened = open_store(store)
        opened.refresh()
        print_import(file, Run(opened, run_name), dataset, ImageFiles(images, paths), as_json)


def convert(
    source_format: Annotated[str, typer.Argument(metavar="FROM", help="A format of docs/datasets.md, e.g. vcoco.")],
    annotations: Annotated[Path, typer.Argument(metavar="ANNOTATIONS", help="Its annotation file.")],
    target_format: Annotated[str, typer.Argument(metavar="TO", help="hico_det, vcoco or visual_genome.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write.")],
    files: Files = None,
    as_json: AsJson = False,
) -> None:
    """Rewrite annotations in another public layout, and tell what it can't hold."""
    from pipeline.cli.convert import convert

    with errors_reported():
        convert(source_format, annotations, target_format, out, files or [], as_json)
