"""`rlip export`: a run's labels in the formats of others, and what those can't hold."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from rich.console import Console

from pipeline.interop.coco_writer import write_coco
from pipeline.interop.cooccurrence_writer import write_cooccurrence
from pipeline.interop.hico_writer import write_hico
from pipeline.interop.official_writer import write_official, write_vg
from pipeline.interop.parquet_writer import write_hugging_face, write_parquet
from pipeline.interop.run_rows import RunRows, Tally
from storage.atomic import atomic_folder
from storage.errors import FatalError
from storage.runs import Run

Format = Literal["official", "vg", "coco", "hico", "parquet", "hf", "cooccurrence"]

_WRITERS: Mapping[str, Callable[[RunRows, Path, float, Tally], None]] = {
    "official": write_official,
    "vg": write_vg,
    "coco": write_coco,
    "hico": write_hico,
    "parquet": write_parquet,
    "hf": write_hugging_face,
    "cooccurrence": write_cooccurrence,
}


@dataclass
class Exported:
    """What an export wrote."""

    run: str
    format: str
    folder: str
    files: list[str] = field(default_factory=list)
    lost: dict[str, int] = field(default_factory=dict)
    """What the format can't hold, or a setting left out: how often."""


def print_export(run: Run, form: Format, folder: Path, threshold: float, as_json: bool) -> None:
    """Export a run and say what was written, and what was lost by it."""
    made = export_run(run, form, folder, threshold)
    if as_json:
        print(json.dumps(asdict(made)))
        return
    console = Console()
    for name in made.files:
        console.print(str(folder / name), markup=False, soft_wrap=True)
    for reason, number in made.lost.items():
        console.print(f"  not in it: {number} x {reason}", markup=False)


def export_run(run: Run, form: Format, folder: Path, threshold: float = 0.0) -> Exported:
    """Write a run into `folder`, which must not exist yet: it appears whole, or not at all.

    Relations that score less than `threshold` are left out (of `parquet`, which copies tables, none are). Raises
    `FatalError` for a folder that is there, and for a run without what the format is made of.
    """
    if folder.exists():
        raise FatalError(f"{folder} exists already: name a new folder with --out, or remove it")
    rows, tally = RunRows(run), Tally()
    try:
        with atomic_folder(folder, replace=False) as aside:
            _WRITERS[form](rows, aside, threshold, tally)
            files = sorted(path.relative_to(aside).as_posix() for path in aside.rglob("*") if path.is_file())
            if not files:
                raise FatalError(
                    f"run {run.name!r} has steps {', '.join(rows.steps())}: nothing in them goes into {form}"
                )
    except OSError as error:
        raise FatalError(f"{folder}: can't be written ({error.strerror}); name another folder with --out") from error
    return Exported(run.name, form, str(folder), files, tally.as_json())
