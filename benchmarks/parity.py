"""Compares our networks with recordings: `python benchmarks/parity.py FOLDER`. Exits with 1 beyond a tolerance.

FOLDER holds recordings in the layout that `recorded/recording.py` describes. The default is our own recordings.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from recorded.compare import Difference, compare
from recorded.measure import measure
from recorded.recording import Recording, recordings_in

OWN = Path(__file__).with_name("recorded") / "own"


def differences(recording: Recording) -> Iterator[Difference]:
    """Yields the largest difference of each group in each recorded part."""
    for part in recording.parts():
        arrays = recording.arrays(part)
        yield from compare(part, arrays, measure(recording, part, arrays))


def main(words: Sequence[str] | None = None) -> int:
    """Prints a row for each recording, part and group. Returns 0 if all are within their tolerances, else 1."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=OWN, metavar="FOLDER")
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_args(words)
    torch.set_num_threads(1)  # for the same order of additions on every machine
    try:
        names = recordings_in(given.folder)
    except FileNotFoundError as error:
        parser.error(str(error))
    rows = [(name, row) for name in names for row in differences(Recording(given.folder, name))]
    if given.json:
        derived = [{"recording": name, "tolerance": row.tolerance, "holds": row.holds} for name, row in rows]
        print(json.dumps([asdict(row) | more for (_, row), more in zip(rows, derived, strict=True)], indent=1))
    else:
        # Names are long: a file or a pipe gets them without truncation.
        Console(width=None if sys.stdout.isatty() else 200).print(_table(rows))
    return 0 if all(row.holds for _, row in rows) else 1


def _table(rows: list[tuple[str, Difference]]) -> Table:
    table = Table("recording", "part", "group", "compared", "largest", "tolerance", "", "where", box=None)
    for name, row in rows:
        verdict = "" if row.holds else "BEYOND"
        figures = (f"{row.compared:,}", f"{row.largest:.1e}", f"{row.tolerance:.0e}")
        table.add_row(name, row.part, row.group, *figures, verdict, row.where)
    return table


if __name__ == "__main__":
    sys.exit(main())
