"""Reads recipe files: the TOML of a recipe over that of the recipes it extends, and where each setting comes from."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.runtime.settings import apply_override, parse_toml
from storage.errors import FatalError, did_you_mean

RECIPES = Path(__file__).parents[2] / "recipes"
"""The project's own recipes, which a recipe in any folder can extend."""
LONGEST_FILE = 2**20
"""Bytes of a recipe."""
SET = "--set"
"""Where a setting of the command line comes from."""
_TRAINING = {
    "clip": "max_grad_norm",
    "host_timeout": "node_timeout",
    "hosts": "nodes",
    "initial": "pretrained",
    "least_hosts": "min_nodes",
    "loaders": "num_workers",
    "recompute": "activation_checkpointing",
}
FORMER_NAMES = {"pretrain.arms": "pretrain.variants"} | {
    f"{section}.{former}": f"{section}.{name}"
    for section in ("train_tagger", "pretrain.settings")
    for former, name in _TRAINING.items()
}
"""Dotted name of a setting in version 0.1 → its name now. Recipes may still use the former one. Keys keep the term of a
setting that was renamed, so nothing is computed again."""
EXAMPLE = 'extends = "coco_sample", or several: extends = ["sets.toml", "swin_t.toml"]'


@dataclass(frozen=True)
class RecipeValues:
    """The values of a recipe before they are checked."""

    file: Path
    values: dict[str, Any]
    origins: Mapping[str, str]
    """Dotted setting → the file that decides it, or `--set`. Settings that are left out have none."""

    def origin(self, setting: str) -> str | None:
        """Where a setting comes from; None if nothing sets it. A section comes from where all of its settings do."""
        parts = setting.split(".")
        for length in range(len(parts), 0, -1):
            above = ".".join(parts[:length])
            if (found := self.origins.get(above)) is not None:
                return found
        below = {origin for name, origin in self.origins.items() if name.startswith(f"{setting}.")}
        return below.pop() if len(below) == 1 else None


def read_recipe(path: Path, overrides: Sequence[str] = ()) -> RecipeValues:
    """Read a recipe file over those that it extends, and apply overrides such as `caption.top_p=0.8`.

    `path`: the file, with or without .toml, or the name of one of the project's own recipes.

    Raises `FatalError` that names the file, or quotes the override.
    """
    path = _recipe_file(path)
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    layers: dict[Path, dict[str, Any]] = {}
    _add_layers(path, layers)
    *bases, (_, own) = layers.items()
    for file, found in [*((file, {k: v for k, v in base.items() if k != "name"}) for file, base in bases), (path, own)]:
        values = joined(values, found)
        origins = _without_replaced(origins, found) | dict.fromkeys(_leaves(found), str(file))
    for override in map(_with_present_name, overrides):
        apply_override(values, override)
        origins[override.partition("=")[0]] = SET
    return RecipeValues(path, values, origins)


def use_present_names(values: dict[str, Any], file: str) -> None:
    """Renames the settings in `values` that have a former name, in place, with a warning for each.

    Raises `FatalError` for a setting that has both names.
    """
    for former, name in FORMER_NAMES.items():
        *sections, last = former.split(".")
        section: Any = values
        for each in sections:
            section = section.get(each) if isinstance(section, dict) else None
        if not isinstance(section, dict) or last not in section:
            continue
        present = name.rpartition(".")[2]
        if present in section:
            raise FatalError(f"{file}: {former} is the former name of {name}, which is set too; remove {former}")
        section[present] = section.pop(last)
        _warn_of(former, name, file)


def _with_present_name(override: str) -> str:
    former, equals, value = override.partition("=")
    if former not in FORMER_NAMES:
        return override
    _warn_of(former, FORMER_NAMES[former], SET)
    return f"{FORMER_NAMES[former]}{equals}{value}"


def _warn_of(former: str, name: str, place: str) -> None:
    warnings.warn(f"{place}: {former} is now called {name}; rename it", FutureWarning, stacklevel=2)


def joined(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """One set of values over another: sections are joined, other values replaced."""
    both = {name for name in above if isinstance(above[name], dict) and isinstance(below.get(name), dict)}
    return {**below, **above, **{name: joined(below[name], above[name]) for name in both}}


def texts_of(values: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Dotted name and value of each text among the values of a recipe."""
    if isinstance(values, str | Path):
        yield name, str(values)
    members = values.items() if isinstance(values, Mapping) else enumerate(values) if isinstance(values, list) else ()
    for inner, value in members:
        yield from texts_of(value, f"{name}.{inner}" if name else str(inner))


def _leaves(values: Mapping[str, Any] | list[Any], prefix: str = "") -> Iterator[str]:
    """The dotted names of all settings. Sections in a list are numbered; a list of values is one setting."""
    for name, value in values.items() if isinstance(values, Mapping) else enumerate(values):
        if _has_sections(value):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def _has_sections(value: Any) -> bool:
    return bool(value) and (isinstance(value, dict) or (isinstance(value, list) and isinstance(value[0], dict)))


def _without_replaced(origins: Mapping[str, str], above: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """The origins without those below settings that are replaced as a whole."""
    left = dict(origins)
    for name, value in above.items():
        if isinstance(value, dict):
            left = _without_replaced(left, value, f"{prefix}{name}.")
        else:
            left = {known: origin for known, origin in left.items() if not known.startswith(f"{prefix}{name}.")}
    return left


def _add_layers(path: Path, layers: dict[Path, dict[str, Any]], extending: tuple[Path, ...] = ()) -> None:
    """Adds the values of the recipes that a recipe extends, then its own, in the order in which they count; each file once."""
    values = _parsed(path)
    use_present_names(values, str(path))
    if isinstance(values.get("data"), dict) and "sources" in values["data"]:
        values["data"].setdefault("root", str(path.parent))
    extended = values.pop("extends", [])
    names = [extended] if isinstance(extended, str) else extended
    if not isinstance(names, list) or not all(isinstance(name, str) and "\0" not in name for name in names):
        raise FatalError(f"{path}: extends = {extended!r}: name one recipe, e.g. {EXAMPLE}")
    chain = (*extending, path.resolve())
    for name in names:
        base = _recipe_file(Path(name), path.parent)
        if base.resolve() in chain:
            raise FatalError(f"{path}: extends {name}, which extends it in turn; end the circle")
        if base not in layers:
            _add_layers(base, layers, chain)
    layers[path] = values


def _recipe_file(name: Path, folder: Path = Path()) -> Path:
    """The file of a recipe: in `folder`, else among the project's own. Raises `FatalError` that says where it looked."""
    for place in (folder, RECIPES):
        for path in (place / name, place / f"{name}.toml"):
            if path.is_file():
                return path
            if path.exists() and not path.is_dir():
                raise FatalError(f"{path}: not a file; name a recipe, e.g. demo or recipes/demo.toml")
    missing = folder / name
    near = sorted(path.name for path in missing.parent.glob("*.toml"))
    own = sorted(path.stem for path in RECIPES.glob("*.toml"))
    meant = did_you_mean(name.name, near) or did_you_mean(name.stem, own)
    raise FatalError(
        f"no recipe at {missing}{meant}; recipes in {missing.parent.absolute()}: {', '.join(near) or 'none'}; the project's own, "
        f"by name: {', '.join(own)}, paper/..."
    )


def _parsed(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > LONGEST_FILE:
            raise FatalError(f"{path}: not a recipe: it has more than {LONGEST_FILE:,} bytes")
        return parse_toml(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise FatalError(f"{path}: not a readable TOML file: {error}") from error
