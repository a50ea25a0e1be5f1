"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

STORE = "out/store"
"""Default of `StorePath`."""

RecipePath = Annotated[
    Path, typer.Argument(metavar="RECIPE", help="A recipe file, or the name of one of the project's own, e.g. demo.")
]
RunName = Annotated[
    str, typer.Argument(metavar="RUN", help="Name of a run, or RUN@2 for its second record; `rlip runs` lists them.")
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
    Path | None, typer.Option("--tokenizer", help="Tokenizer's folder, for weights that have none beside them.")
]
