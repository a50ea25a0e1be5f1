"""`rlip weights`: trains a tagger, converts official checkpoints to weights and back, and shows what a file contains.

Imports of torch are local to their functions, so that `--help` responds at once.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from models.config import NetworkConfig
from models.weights_file import by_part, is_own, read_config, read_shapes
from pipeline.cli.errors import resumable
from pipeline.cli.options import AsJson, Direct, Objects, Overrides, Predicates, RecipePath, Tokenizer
from pipeline.cli.predict import label_names, open_network, trained_names, weights_errors, weights_path
from pipeline.report.formatting import NAMES, share, table
from pipeline.runtime.settings import apply_override, flat
from storage.atomic import atomic_file
from storage.errors import FatalError

commands = typer.Typer(no_args_is_help=True)
OwnPath = Annotated[
    Path, typer.Argument(metavar="FILE", help="A .safetensors file, its folder, or sample weights, e.g. demo-detector.")
]


@commands.command("train-tagger")
@resumable()
def train_tagger(
    recipe: RecipePath, overrides: Overrides = None, direct: Direct = False, as_json: AsJson = False
) -> None:
    """Train the Relation Tagger of a recipe, running only the steps it needs. Print its scores and weights file."""
    from pipeline.cli.run import run_context
    from pipeline.run.context import RunContext
    from pipeline.run.recipe_files import load_recipe
    from pipeline.training.config import MODEL

    context = RunContext(load_recipe(recipe, [*(overrides or []), "run.until=train_tagger"]))
    if (weights := context.recipe.tag.weights) is not None:
        raise FatalError(
            f"{recipe}: tag.weights = {weights} names an existing tagger, so none is trained; remove tag.weights"
        )
    run_context(context, direct, as_json)
    # Of the taggers of several folds, the first.
    trained = next(step.name for step in context.steps if step.stage.name == "train_tagger")
    (artifact,) = context.run.artifacts(trained).values()
    # The last measurement on held-out images, if any were held out.
    last = {row["name"]: row["value"] for row in artifact.table("tagger").to_pylist()}
    images, held_out = artifact.manifest.counts.rows_out, int(last.get("held_out_images", 0))
    scores = {name: round(last[name], 4) for name in NAMES["tagger"] if name in last}
    weights_file = str(artifact.file(MODEL))
    if as_json:
        print(json.dumps({"weights": weights_file, "images": images, "held_out": held_out, "scores": scores}))
        return
    console = Console(markup=False)
    if scores:
        shown = table(f"Tagger of {images:,} images, scored on {held_out:,} held-out images", "metric", "")
        for name, score in scores.items():
            shown.add_row(NAMES["tagger"][name], share(score))
        console.print(shown)
    console.print(Text(f"Weights: {weights_file}"), soft_wrap=True)


@commands.command("import")
def import_weights(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A checkpoint (.pth) or a .safetensors file.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The .safetensors file to write.")],
    args: Annotated[
        Path | None, typer.Option(help="A JSON file with the training run's settings, for checkpoints that lack them.")
    ] = None,
    text: Annotated[
        Path | None, typer.Option(help="For a detector: folder with model.safetensors of roberta-base.")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="Override a network setting, e.g. text.heads=4. Can be repeated."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Random seed for parameters that a detector checkpoint lacks.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Convert a checkpoint of RLIPv2, R-Tagger or (DAB-)Deformable-DETR to weights of this project.

    If a parameter does not fit or a setting is unknown, nothing is written.
    """
    from models.official.imported import import_checkpoint
    from models.weights import write

    _refuse_target(file, out)
    settings: dict[str, Any] = {}
    for override in overrides or []:
        apply_override(settings, override)
    with weights_errors():
        imported = import_checkpoint(file, args, settings, seed, text)
        with atomic_file(out) as aside:
            write(imported.state, imported.config, aside)
    if as_json:
        values = {
            "file": str(out),
            "kind": imported.kind.value,
            "settings": imported.config.to_dict(),
            "loaded": imported.loaded,
            "text_encoder": imported.texts,
            "expected_new": imported.new,
            "left_out": imported.left_out,
        }
        print(json.dumps(values))
        return
    console = Console(markup=False)
    console.print(f"{imported.kind.value} → {out}", soft_wrap=True)
    table = Table("", "parameters", box=None)
    table.add_column("which", overflow="fold")
    for title, names in (
        ("loaded", imported.loaded),
        ("text encoder", imported.texts),
        ("expected to be new", imported.new),
        ("not imported", imported.left_out),
    ):
        parts = [f"{part} ({len(each)})" if each[1:] else each[0] for part, each in by_part(names).items()]
        table.add_row(title, f"{len(names):,}", "\n".join(parts) or "none")
    console.print(table)


@commands.command("export")
def export_weights(
    file: OwnPath,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The .pth file to write; with --onnx, the .onnx file.")],
    onnx: Annotated[bool, typer.Option("--onnx", help="Write a graph that onnxruntime runs without torch.")] = False,
    objects: Objects = None,
    predicates: Predicates = None,
    tokenizer: Tokenizer = None,
    as_json: AsJson = False,
) -> None:
    """Convert weights of this project to a checkpoint that the authors' code loads, and report the differences.

    Nothing is written if their code has no such network.

    With --onnx, convert them to an ONNX file for any images, with names of objects and predicates.
    """
    from models.official.export import differences, export_checkpoint, official_options, write_checkpoint
    from models.official.sizes import kind_of
    from models.weights import load

    file = weights_path(file)
    _refuse_target(file, out)
    if onnx:
        _export_onnx(file, out, objects, predicates, tokenizer, as_json)
        return
    if objects or predicates or tokenizer:
        raise FatalError("--objects, --predicates and --tokenizer belong to --onnx: a checkpoint contains no names")
    with weights_errors():
        config = read_config(file)
        official = export_checkpoint(load(file, None).state_dict(), config)
        with atomic_file(out) as aside:
            write_checkpoint(official, config, aside)
    kind, notes = kind_of(official), differences(config)
    assert kind is not None
    if as_json:
        options = official_options(config)
        print(
            json.dumps({"file": str(out), "kind": kind.value, "args": options, "written": [*official], "notes": notes})
        )
        return
    console = Console(markup=False)
    console.print(f"{kind.value} → {out}: {len(official):,} parameters by the authors' names", soft_wrap=True)
    for note in notes:
        console.print(f"• {note}")


def _export_onnx(
    file: Path, out: Path, objects: str | None, predicates: str | None, tokenizer: Path | None, as_json: bool
) -> None:
    from models.onnx_export import export_onnx
    from pipeline.evaluation.predictor import Names

    network = open_network(file, tokenizer, "cpu")
    known = trained_names(file)
    names = Names(
        label_names("objects", objects, known.objects), label_names("predicates", predicates, known.predicates)
    )
    waiting = Console(stderr=True, markup=False).status("Exporting takes minutes")
    with weights_errors(), atomic_file(out) as aside, waiting:
        export_onnx(network, names.objects, names.predicates, known.image_size, aside)
    if as_json:
        print(json.dumps({"file": str(out), "image_size": known.image_size, **vars(names)}))
        return
    counts = " and ".join(f"{len(each):,} {kind}" for kind, each in vars(names).items())
    print(f"{file} → {out}: {counts}; images of {known.image_size} pixels, or any multiples of 32")


@commands.command("show")
def show_weights(file: OwnPath, as_json: AsJson = False) -> None:
    """Show the contents of weights or of a checkpoint (.pth): network, settings and the sizes of its parts."""
    file = weights_path(file)
    with weights_errors():
        if is_own(file):
            config: NetworkConfig | None = read_config(file)
            what, shapes = "weights of this project", read_shapes(file)
        else:
            from models.official.checkpoint import read_checkpoint
            from models.official.sizes import kind_of

            checkpoint = read_checkpoint(file)
            kind, config = kind_of(checkpoint.state), None
            what = f"{kind.value} checkpoint of the authors" if kind else "checkpoint of an unknown architecture"
            shapes = {name: tuple(value.shape) for name, value in checkpoint.state.items()}
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    settings = dict(flat(config.to_dict())) if config else {}
    if as_json:
        parts = {part: sum(sizes[name] for name in names) for part, names in by_part(sizes).items()}
        print(json.dumps({"file": str(file), "what": what, "settings": settings, "values": parts}))
        return
    console = Console(markup=False)
    console.print(f"{file}: {what}, {sum(sizes.values()):,} values", soft_wrap=True)
    if settings:
        table = Table("setting", "value", box=None)
        for name, value in settings.items():
            table.add_row(name, str(value))
        console.print(table)
    table = Table("part", "parameters", "values", box=None)
    for part, names in by_part(sizes).items():
        table.add_row(part, f"{len(names):,}", f"{sum(sizes[name] for name in names):,}")
    console.print(table)


def _refuse_target(file: Path, out: Path) -> None:
    if out.is_dir() or out.resolve() == file.resolve():
        raise FatalError(f"{out}: is {'a folder' if out.is_dir() else 'the input file'}; name a new file to write")
