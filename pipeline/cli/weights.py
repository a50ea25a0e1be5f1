"""`rlip weights`: converts official checkpoints into weights of this project and back, and shows what a file holds."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from models.config import ConfigError, NetworkConfig
from models.official.checkpoint import read_checkpoint
from models.official.export import differences, export_checkpoint, official_options, write_checkpoint
from models.official.imported import Imported, import_checkpoint
from models.official.sizes import kind_of
from models.weights import load, write
from models.weights_file import WeightsError, by_part, is_own, read_config, read_shapes
from pipeline.runtime.settings import apply_override
from storage.atomic import atomic_file
from storage.errors import FatalError


def import_weights(
    file: Path,
    out: Path,
    settings: Path | None,
    overrides: Sequence[str],
    seed: int,
    as_json: bool,
    text_folder: Path | None = None,
) -> None:
    """Convert an official checkpoint into weights of this project and report what became of its parameters.

    Raises `FatalError`, before writing anything, when a parameter does not fit or a setting is unknown.
    """
    _refuse_target(file, out)
    given: dict[str, Any] = {}
    for override in overrides:
        apply_override(given, override)
    with _as_terminal():
        imported = import_checkpoint(file, settings, given, seed, text_folder)
        with atomic_file(out) as aside:
            write(imported.state, imported.config, aside)
    if as_json:
        print(json.dumps(_as_json(imported, out)))
        return
    console = Console()
    console.print(f"{imported.kind.value} → {out}")
    table = Table("", "parameters", box=None)
    table.add_column("which", overflow="fold")
    for title, names in (
        ("loaded", imported.loaded),
        ("text encoder", imported.texts),
        ("expected to be new", imported.new),
        ("unexpected", []),
        ("left out", imported.left_out),
    ):
        parts = [f"{part} ({len(each)})" if each[1:] else each[0] for part, each in by_part(names).items()]
        table.add_row(title, f"{len(names):,}", "\n".join(parts) or "none")
    console.print(table)


def export_weights(file: Path, out: Path, as_json: bool) -> None:
    """Convert weights of this project into a checkpoint of the authors' code and tell what differs there.

    Raises `FatalError`, before writing anything, when their code has no such network.
    """
    _refuse_target(file, out)
    with _as_terminal():
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
    console = Console()
    console.print(f"{kind.value} → {out}: {len(official):,} parameters by the authors' names")
    for note in notes:
        console.print(f"• {note}")


def show_weights(file: Path, as_json: bool) -> None:
    """Print the parts of a weights file, plus the settings of our weights or the kind of an official checkpoint."""
    with _as_terminal():
        if is_own(file):
            config: NetworkConfig | None = read_config(file)
            what, shapes = "weights of this project", read_shapes(file)
        else:
            checkpoint = read_checkpoint(file)
            kind, config = kind_of(checkpoint.state), None
            what = f"{kind.value} checkpoint of the authors" if kind else "checkpoint of an unknown architecture"
            shapes = {name: tuple(value.shape) for name, value in checkpoint.state.items()}
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    settings = _flat(config.to_dict()) if config else {}
    if as_json:
        parts = {part: sum(sizes[name] for name in names) for part, names in by_part(sizes).items()}
        print(json.dumps({"file": str(file), "what": what, "settings": settings, "values": parts}))
        return
    console = Console()
    console.print(f"{file}: {what}, {sum(sizes.values()):,} values")
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
        raise FatalError(f"{out}: is {'a folder' if out.is_dir() else 'the file itself'}; name a new file to write")


@contextmanager
def _as_terminal() -> Iterator[None]:
    try:
        yield
    except (WeightsError, ConfigError, OSError) as error:
        raise FatalError(str(error)) from error


def _as_json(imported: Imported, out: Path) -> dict[str, Any]:
    return {
        "file": str(out),
        "kind": imported.kind.value,
        "settings": imported.config.to_dict(),
        "loaded": imported.loaded,
        "text_encoder": imported.texts,
        "expected_new": imported.new,
        "unexpected": [],
        "left_out": imported.left_out,
    }


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings by the dotted names that `--set` takes."""
    return {
        f"{name}{'.' if inner else ''}{inner}": value
        for name, outer in settings.items()
        for inner, value in (outer.items() if isinstance(outer, dict) else [("", outer)])
    }
