"""`rlip data`: downloads and lists public datasets, draws a synthetic one, and converts annotations."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress, TaskID

from pipeline.cli.errors import resumable
from pipeline.cli.options import AsJson, Files, Masks, Overrides, further_files
from pipeline.data.catalogue import CATALOGUE, ROOT, PublicFile, PublicSet, find_sets, in_bytes
from pipeline.data.download import Report, download, gunzip, mirrored, require_digest, unpack
from pipeline.report.formatting import byte_bars
from pipeline.runtime.plugins import plugin_names
from pipeline.runtime.wording import counted
from storage.errors import FatalError

DataRoot = Annotated[Path, typer.Option("--root", help="The recipes' data.root; their weights are in data/weights.")]
commands = typer.Typer(no_args_is_help=True)


@commands.command("get")
@resumable()
def get_data(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME]...", help="Names from `rlip data list`, e.g. coco or blip; lists all if omitted."
        ),
    ] = None,
    root: DataRoot = ROOT,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="PART", help="Only this part, e.g. val. Can be repeated.")
    ] = None,
    mirror: Annotated[
        str | None,
        typer.Option(envvar="RLIP_MIRROR", metavar="URL", help="Get https://host/path from URL/host/path instead."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Download public datasets and weights to where recipes look for them. Resume, verify and unpack.

    At the end, list what must be downloaded manually, and exit with 1 if anything is missing.
    """
    if not names:
        list_data(root, as_json)
        return
    sets = find_sets(names)
    files = _chosen(sets, only or [])
    lacking = [file for file in files if not file.is_there(root)]
    console = Console(stderr=True, markup=False)
    with byte_bars(console, disable=as_json) as bar:
        for number, file in enumerate(lacking, start=1):
            _get(file, root, mirror, bar, f"{number}/{len(lacking)} {Path(file.path).name}")
            if not as_json:
                bar.console.print(f"{', '.join(str(root / place) for place in file.places)}", soft_wrap=True)
    by_hand = [each for each in sets if each.by_hand and not each.is_there(root)]
    if as_json:
        got = [str(root / place) for file in lacking for place in file.places]
        there = [str(root / place) for file in files if file not in lacking for place in file.places]
        print(json.dumps({"got": got, "there": there, "by_hand": [each.name for each in by_hand]}))
    else:
        if files:
            print(f"{counted(len(lacking), 'file')} downloaded, {len(files) - len(lacking)} already existed")
        for each in sets:
            if each.note:
                print(f"{each.name}: {each.note}")
    if by_hand:
        raise FatalError("\n".join(_by_hand(each, root) for each in by_hand))


@commands.command("list")
def list_data(root: DataRoot = ROOT, as_json: AsJson = False) -> None:
    """List public datasets and weights: official page, size, where each part goes, and whether you have it."""
    if as_json:
        print(json.dumps([_as_json(each, root) for each in CATALOGUE.values()]))
        return
    for each in CATALOGUE.values():
        print(f"{each.name}: {each.title}, about {in_bytes(each.size)}, {each.page}")
        for part in each.parts:
            files = [file for file in each.files if file.part == part]
            print(
                f"  {part:12} {in_bytes(sum(f.size for f in files)):>9}  {_state(files, root):16}  "
                f"{_where(files, root)}"
            )
        for place in each.hand_places:
            print(f"  {'manual':12} {'':>9}  {'present' if (root / place).exists() else 'missing':16}  {root / place}")
        for text in (each.by_hand, each.note):
            if text:
                print(f"  {text}")


@commands.command("scenes")
def make_scenes(
    folder: Annotated[Path, typer.Argument(help="Folder to write to.")],
    recipe: Annotated[Path, typer.Option(help="The recipe with the `scenes` section.")] = Path("demo"),
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Write the synthetic world with its ground truth, in COCO, Objects365, Visual Genome and HICO-DET formats."""
    from pipeline.run.prepare import write_world
    from pipeline.run.recipe_files import load_recipe

    scenes = load_recipe(recipe, overrides or []).scenes
    if scenes is None:
        raise FatalError(f"{recipe} has no [scenes] section; use a recipe with one, e.g. --recipe demo")
    with Progress(console=Console(stderr=True, markup=False), disable=as_json) as progress:
        bar = progress.add_task("scenes")
        write_world(folder, scenes, lambda done, total: progress.update(bar, completed=done, total=total))
    print(json.dumps({"folder": str(folder)}) if as_json else folder)


_TARGETS = [name for name in plugin_names("exports") if name != "csv"]
"""Exports that annotations can be converted to: CSV has scored labels only."""


@commands.command("convert")
def convert(
    source_format: Annotated[str, typer.Argument(metavar="FROM", help="A format of docs/datasets.md, e.g. vcoco.")],
    annotations: Annotated[Path, typer.Argument(metavar="ANNOTATIONS", help="Its annotation file.")],
    target_format: Annotated[
        str, typer.Argument(metavar="TO", help=f"A format of rlip export: {', '.join(_TARGETS)}.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write.")],
    files: Files = None,
    split: Annotated[
        str, typer.Option(help="vg150, psg: the split to read. Other formats: the name to give it.")
    ] = "train",
    masks: Masks = None,
    as_json: AsJson = False,
) -> None:
    """Convert annotations to another public format, and report what it can't represent."""
    from pipeline.interop.annotation_converter import convert_annotations
    from pipeline.interop.export_run import print_export

    more = further_files(files or [])
    print_export(convert_annotations(source_format, annotations, target_format, out, more, split, masks), as_json)


def _chosen(sets: Sequence[PublicSet], only: Sequence[str]) -> list[PublicFile]:
    parts = dict.fromkeys(part for each in sets for part in each.parts)
    for part in only:
        if part not in parts:
            named = ", ".join(each.name for each in sets)
            raise FatalError(f"--only {part}: no such part; {named} has {', '.join(parts) or 'none'}")
    return [file for each in sets for file in each.files if not only or file.part in only]


def _get(file: PublicFile, root: Path, mirror: str | None, bar: Progress, title: str) -> None:
    """Download a file, unless it exists, and unpack it."""
    task = bar.add_task(title, total=None)
    path = root / file.path
    if path.is_file():
        # The archive is from an interrupted run, or was copied to a machine without network.
        if file.digest is not None:
            require_digest(path, file.digest)
    else:
        download(mirrored(file.url, mirror), path, file.digest, _report(bar, task))
    if file.then != "keep":
        bar.reset(task, description=f"{title}: unpacking", total=None)
    if file.then == "unpack":
        unpack(path, path.parent, _report(bar, task))
    elif file.then == "gunzip":
        gunzip(path, root / file.places[0], _report(bar, task))
    bar.remove_task(task)
    if not file.is_there(root):
        lacking = ", ".join(str(root / place) for place in file.places if not (root / place).exists())
        raise FatalError(f"{file.url} was unpacked in {path.parent} but has no {lacking}; look for it there")


def _report(bar: Progress, task: TaskID) -> Report:
    return lambda done, total: bar.update(task, completed=done, total=total)


def _by_hand(each: PublicSet, root: Path) -> str:
    places = "\n".join(f"  {root / place}" for place in each.hand_places)
    return f"{each.name} must be downloaded manually. Official page: {each.page}\n{each.by_hand}\nIt goes to\n{places}"


def _state(files: Sequence[PublicFile], root: Path) -> str:
    there = sum(file.is_there(root) for file in files)
    return "present" if there == len(files) else "missing" if not there else f"{there} of {len(files)} present"


def _where(files: Sequence[PublicFile], root: Path) -> str:
    places = [str(root / place) for file in files for place in file.places]
    return ", ".join(places) if len(places) <= 6 else f"{places[0]} ... {places[-1]}"


def _as_json(each: PublicSet, root: Path) -> dict[str, Any]:
    return {
        "name": each.name,
        "title": each.title,
        "page": each.page,
        "size": each.size,
        "there": each.is_there(root),
        "by_hand": each.by_hand,
        "note": each.note,
        "files": [
            {
                "part": file.part,
                "url": file.url,
                "size": file.size,
                "digest": file.digest,
                "places": [str(root / place) for place in file.places],
                "there": file.is_there(root),
            }
            for file in each.files
        ],
        "places_by_hand": [str(root / place) for place in each.hand_places],
    }
