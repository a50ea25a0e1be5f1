"""Arguments and options shared by several commands."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

STORE = "out/store"
"""Default of `StorePath`."""

RecipePath = Annotated[
    Path, typer.Argument(metavar="RECIPE", help="A recipe file, or the name of a built-in recipe, e.g. demo.")
]
RunName = Annotated[
    str,
    typer.Argument(
        metavar="RUN", help="Name of a run, or RUN@2 for its second record; `rlip show --history` lists them."
    ),
]
Url = Annotated[str, typer.Argument(metavar="URL", help="A folder, s3://bucket/folder or another fsspec URL.")]

AsJson = Annotated[bool, typer.Option("--json", help="Print machine-readable JSON.")]
Direct = Annotated[bool, typer.Option("--direct", help="Run without Prefect, in this process and its workers.")]
Files = Annotated[
    list[str] | None,
    typer.Option(
        "--file",
        metavar="FIELD=PATH",
        help="A further file, e.g. verbs=hico_verbs.txt or instances=instances.json. Can be repeated.",
    ),
]
Masks = Annotated[
    Path | None, typer.Option("--masks", help="psg, coco_panoptic: folder of the PNGs, whose masks become COCO's RLEs.")
]
Objects = Annotated[
    str | None, typer.Option("--objects", metavar="A,B", help="Names, or @FILE; unset: those used in training.")
]
Predicates = Annotated[
    str | None, typer.Option("--predicates", metavar="C,D", help="Names, or @FILE; unset: those used in training.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Override a setting, e.g. shard.threshold=0.3. Can be repeated."),
]
StorePath = Annotated[str, typer.Option("--store", help="The store: a folder or a URL such as s3://bucket/folder.")]
VerdictsFolder = Annotated[
    Path | None,
    typer.Option("--verdicts", metavar="FOLDER", help="Folder of verdicts; `verdicts` in the store if omitted."),
]
Tokenizer = Annotated[
    Path | None, typer.Option("--tokenizer", help="Folder of the tokenizer, for weights without one next to them.")
]


def printed(make: Callable[..., Any], show: Callable[..., None]) -> Callable[..., None]:
    """A command that calls `make`, which `rlip` calls too, and shows what it returns. It has the options of both."""
    (_, *own), made = (inspect.signature(each).parameters.values() for each in (show, make))
    types = {name: kind for each in (show, make) for name, kind in get_type_hints(each, include_extras=True).items()}

    @wraps(make)
    def command(**options: Any) -> None:
        shown = {option.name: options.pop(option.name) for option in own}
        show(make(**options), **shown)

    # Typer reads a command's options from its signature.
    options = [option.replace(annotation=types[option.name]) for option in (*made, *own)]
    command.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
    command.__annotations__ = types
    return command


def further_files(pairs: Sequence[str]) -> Mapping[str, Path]:
    """The files in `--file` options. Raises `FatalError` for another form or an unknown field."""
    from pipeline.data.datasets.source import FURTHER_FILES
    from storage.errors import FatalError

    files = {}
    for pair in pairs:
        field, equals, path = pair.partition("=")
        if not equals or not path or field not in FURTHER_FILES:
            raise FatalError(f"--file {pair}: expected FIELD=PATH, with one of the fields {', '.join(FURTHER_FILES)}")
        files[field] = Path(path)
    return files
