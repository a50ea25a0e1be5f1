"""`rlip convert`: rewrites annotation files in another public layout."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from pipeline.data.datasets.source import FURTHER_FILES
from pipeline.interop.annotation_converter import convert_annotations
from storage.errors import FatalError


def convert(
    source_format: str, annotations: Path, target_format: str, out: Path, files: Sequence[str], as_json: bool
) -> None:
    """Converts annotations and prints what was written and what was lost. `files`: further files as FIELD=PATH."""
    tally = convert_annotations(source_format, annotations, target_format, out, further_files(files))
    if as_json:
        print(json.dumps({"out": str(out), "wrote": dict(tally.wrote), "lost": tally.as_json()}))
        return
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{out}: " + ", ".join(f"{count:,} {kind}" for kind, count in tally.wrote.items()), markup=False)
    for reason, count in tally.as_json().items():
        console.print(f"  lost: {reason}: {count:,}", markup=False)


def further_files(pairs: Sequence[str]) -> Mapping[str, Path]:
    """The files that options such as verbs=FILE name. Raises `FatalError` for another form or an unknown field."""
    files = {}
    for pair in pairs:
        field, equals, path = pair.partition("=")
        if not equals or not path or field not in FURTHER_FILES:
            raise FatalError(f"--file {pair}: expected FIELD=PATH, with one of the fields {', '.join(FURTHER_FILES)}")
        files[field] = Path(path).expanduser()
    return files
