"""Formats tables and their rows for a terminal, and names of names.toml. Text from captions and files is sanitised."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table

from pipeline.runtime.wording import one_line

LONGEST = 160
_CONTROLS = dict.fromkeys(
    [
        *range(0x9), 0xB, 0xC, *range(0xE, 0x20), *range(0x7F, 0xA0), 0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F),
        *range(0x2066, 0x206A),
    ],
    "�",
)  # fmt: skip
_MOST_ITEMS = 4
_DIGEST = 12
"""Number of leading characters that identify a digest."""


def sanitise(text: str, longest: int = LONGEST) -> str:
    """Sanitises `text` for a terminal: no control characters, one line, at most `longest` characters."""
    line = one_line(text)
    return line if len(line) <= longest else line[: longest - 1] + "…"


def without_controls(value: Any) -> Any:
    """Removes control characters and characters that change the text direction from text; other values stay."""
    return value.translate(_CONTROLS) if isinstance(value, str) else value


def bytes_in_words(count: float) -> str:
    """Formats a number of bytes with a suitable unit, e.g. "1.5 MiB"."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def count(value: int | None) -> str:
    """Formats a number of things."""
    return "–" if value is None else f"{value:,}"


def share(value: float | None) -> str:
    """Formats a share in [0, 1] with three digits."""
    return "–" if value is None else f"{value:.3f}"


def table(title: str | None, *columns: str, texts: Collection[str] = ()) -> Table:
    """Creates an empty table of names (first column), numbers, and `texts`, aligned left.

    Headings wrap but are never truncated.
    A title wraps at the table's width, so a title with a path, which people copy, is printed above the table instead.
    """
    made = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for place, column in enumerate(columns):
        longest = max(map(len, column.split(" ")))
        justify: Literal["left", "right"] = "right" if place and column not in texts else "left"
        made.add_column(column, justify=justify, header_style="dim", no_wrap=not place, min_width=longest)
    return made


def byte_bars(console: Console, disable: bool) -> Progress:
    """Progress bars of bytes, which vanish at the end."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, transient=True, disable=disable)


def in_words(row: Mapping[str, Any]) -> tuple[str, str]:
    """The name of a row (its image id, if any) and a summary of its content."""
    rest = dict(row)
    name = str(rest.pop("image_id", ""))
    parts = []
    for column, value in rest.items():
        if isinstance(value, list):
            in_short = _ITEMS.get(column, partial(json.dumps, ensure_ascii=False, default=str))
            items = "; ".join(in_short(item) for item in value[:_MOST_ITEMS])
            more = f" (+{len(value) - _MOST_ITEMS})" if len(value) > _MOST_ITEMS else ""
            parts.append(f"{len(value)} {column}: {items}{more}" if value else f"no {column}")
        elif column not in ("digest", "split"):
            text = f"{value:.4g}" if isinstance(value, float) else str(value)
            parts.append(f"{column} {text[: _DIGEST if column == 'tagger' else None]}")
    return name, sanitise(" · ".join(parts), 400)


def _relation(item: Mapping[str, Any]) -> str:
    score = f" {item['score']:.2f}" if "score" in item else ""
    return f"#{item['subject']} {item['predicate']} #{item['object']}{score}"


_ITEMS: Mapping[str, Callable[[Any], str]] = {
    "boxes": "{0[category]} {0[x]:.0f},{0[y]:.0f} {0[w]:.0f}x{0[h]:.0f}".format,
    "captions": "{0[text]}".format,
    "triplets": "{0[subject_lemma]} | {0[predicate_lemma]} | {0[object_lemma]}".format,
    "pairs": _relation,
    "relations": _relation,
}


NAMES: Mapping[str, Mapping[str, str]] = tomllib.loads(
    Path(__file__).with_name("names.toml").read_text(encoding="utf-8")
)
"""Kind of name → name → how it is shown."""


def shown_name(kind: str, name: str) -> str:
    """How a name is shown: as the file says, or else as it is, with blanks."""
    return NAMES[kind].get(name, name.replace("_", " "))
