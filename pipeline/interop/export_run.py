"""`rlip export`: writes a run's labels in external formats and counts what those formats can't hold."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

from rich.console import Console

from pipeline.interop.run_rows import RunRows, Tally
from pipeline.runtime.plugins import load_plugin
from storage.atomic import atomic_folder
from storage.errors import FatalError, translate_os_errors
from storage.runs import Run

SHOWN = 12
"""Number of files that are printed: those of Hugging Face's splits, and not every mask of PSG."""


class Writer(Protocol):
    """A registered export: writes the rows of a run to an empty folder, with relations of sufficient score. It counts
    what it writes in `tally.wrote`, and notes what the format can't represent. A writer without scores begins with
    `rows.require_kept()`. One with masks has the attribute `keeps_fields`: it also writes fields that no table has, and
    counts those that it loses.
    """

    def __call__(self, rows: RunRows, folder: Path, threshold: float, tally: Tally) -> None:
        """Raises `FatalError` for a run that the format can't represent."""


@dataclass
class Exported:
    """Files that an export wrote, and what it lost."""

    run: str
    format: str
    folder: str
    labels: str = ""
    """Which relations were exported: the choice that the run's shards keep, all, or annotated ones."""
    files: list[str] = field(default_factory=list)
    wrote: dict[str, int] = field(default_factory=dict)
    """Images, boxes, captions, relations etc. → count."""
    lost: dict[str, int] = field(default_factory=dict)
    """Reason → count: information that the format cannot hold or that a setting excluded."""


def print_export(result: Exported, as_json: bool = False) -> None:
    """Prints the files, how much was written, and what was lost."""
    if as_json:
        print(json.dumps(asdict(result)))
        return
    console = Console(markup=False)
    for name in result.files[:SHOWN]:
        console.print(f"{result.folder}/{name}", soft_wrap=True)
    if len(result.files) > SHOWN:
        console.print(f"and {len(result.files) - SHOWN:,} more files")
    wrote = ", ".join(f"{number:,} {what}" for what, number in result.wrote.items())
    console.print(f"{wrote}; labels: {result.labels}", soft_wrap=True)
    for reason, number in result.lost.items():
        console.print(f"  not exported: {number} x {reason}", soft_wrap=True)


def export_run(
    run: Run, form: str, folder: Path, threshold: float = 0.0, all_scores: bool = False, masks: Path | str | None = None
) -> Exported:
    """Writes a run into the new folder `folder`, which appears complete or not at all.

    Exports the relations that the run's shards keep, or with `all_scores` every scored one, except those below
    `threshold`. `masks`: the folder of the PNGs that PSG and COCO panoptic name. Raises
    `FatalError` if the folder exists or cannot be written, if the run lacks the steps that the format needs, or for a
    setting that the format has no use for: `all_scores` without scores, `masks` without masks, `threshold` for tables.
    """
    if folder.exists():
        raise FatalError(f"{folder} already exists; name a new folder with --out, or remove this one")
    write: Writer = load_plugin("exports", form)
    if masks is not None and not hasattr(write, "keeps_fields"):
        raise FatalError(f"--masks: {form} has no masks; omit it")
    rows, tally = RunRows(run, all_scores, masks), Tally()
    with translate_os_errors(f"writing {folder}"), atomic_folder(folder, replace=False) as aside:
        write(rows, aside, threshold, tally)
        tally.note("image that the run has not labelled", rows.unlabelled)
        files = sorted(path.relative_to(aside).as_posix() for path in aside.rglob("*") if path.is_file())
        if not files:
            raise FatalError(
                f"run {run.name!r}: its steps {', '.join(rows.steps())} have nothing for {form}; use another --format"
            )
    labels = "all scores" if rows.choice is None else f"kept, {rows.choice.in_words()}"
    labels = labels if "tag" in rows.steps() else "annotated"
    return Exported(run.name, form, str(folder), labels, files, dict(tally.wrote), tally.as_json())
