"""`rlip export`: writes a run's labels in external formats and counts what those formats cannot hold."""

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
    """Files that an export wrote, and what it lost."""

    run: str
    format: str
    folder: str
    files: list[str] = field(default_factory=list)
    lost: dict[str, int] = field(default_factory=dict)
    """Reason → count: information that the format cannot hold or that a setting excluded."""


def print_export(run: Run, form: Format, folder: Path, threshold: float, as_json: bool) -> None:
    """Exports a run and prints the files written and the counts of what was lost."""
    made = export_run(run, form, folder, threshold)
    if as_json:
        print(json.dumps(asdict(made)))
        return
    console = Console()
    for name in made.files:
        console.print(str(folder / name), markup=False, soft_wrap=True)
    for reason, number in made.lost.items():
        console.print(f"  not exported: {number} x {reason}", markup=False)


def export_run(run: Run, form: Format, folder: Path, threshold: float = 0.0) -> Exported:
    """Writes a run into the new folder `folder`, which appears complete or not at all.

    Leaves out relations that score below `threshold`; `parquet` copies whole tables and ignores it. Raises `FatalError`
    if the folder exists or cannot be written, or if the run has no steps that the format needs.
    """
    if folder.exists():
        raise FatalError(f"{folder} already exists; name a new folder with --out, or remove this one")
    rows, tally = RunRows(run), Tally()
    try:
        with atomic_folder(folder, replace=False) as aside:
            _WRITERS[form](rows, aside, threshold, tally)
            files = sorted(path.relative_to(aside).as_posix() for path in aside.rglob("*") if path.is_file())
            if not files:
                raise FatalError(
                    f"run {run.name!r}: its steps {', '.join(rows.steps())} have nothing for {form}; set another --format"
                )
    except OSError as error:
        raise FatalError(f"{folder}: cannot be written ({error.strerror}); name another folder with --out") from error
    return Exported(run.name, form, str(folder), files, tally.as_json())
