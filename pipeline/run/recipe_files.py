"""Reads recipes: the TOML of a recipe over that of the recipes it extends, each setting's origin, and what is wrong."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from pipeline.run.dag import build_steps
from pipeline.run.recipe import NEED_TAGGER, Recipe
from pipeline.runtime.settings import Settings, apply_override, flat, parse_toml
from pipeline.stages.parse import ParseStage
from pipeline.stages.pretrain import PretrainStage
from pipeline.stages.tag import TagStage
from storage.errors import FatalError, did_you_mean
from storage.open_store import local_folder
from storage.runs import Run

RECIPES = Path(__file__).parents[2] / "recipes"
"""The built-in recipes, which a recipe in any folder can extend."""
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
FORMER_NAMES = {
    "pretrain.arms": "pretrain.variants",
    "run.max_reject_share": "run.checks.max_overall_reject_share",
    "tag.audit_floor": "run.checks.min_overall_average_precision",
} | {
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
    """Dotted setting → the file that decides it, or `--set`. Omitted settings have none."""

    def origin(self, setting: str) -> str | None:
        """Where a setting comes from; None if nothing sets it. A section comes from where all of its settings do."""
        parts = setting.split(".")
        for length in range(len(parts), 0, -1):
            above = ".".join(parts[:length])
            if (found := self.origins.get(above)) is not None:
                return found
        below = {origin for name, origin in self.origins.items() if name.startswith(f"{setting}.")}
        return below.pop() if len(below) == 1 else None

    def overrides(self) -> dict[str, Any]:
        """Dotted setting → value of each setting that `--set` decides. A list of values is one setting."""
        decided = [f"{name}." for name, origin in self.origins.items() if origin == SET]
        return {
            name: value
            for name, value in flat(self.values)
            if any(f"{name}.".startswith(each) or each.startswith(f"{name}.") for each in decided)
        }


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe, with those that it extends, and apply overrides such as `caption.top_p=0.8`.

    Raises `FatalError` with the file, the field, its value and what is allowed.
    """
    return recipe_of(read_recipe(path, overrides))


def recipe_of(read: RecipeValues) -> Recipe:
    """Builds the recipe of a file from the values that were read. Raises `FatalError` as `load_recipe` does."""
    values = {"name": read.file.stem, **read.values}
    if isinstance(values.get("data"), dict):
        values["data"] = {"root": str(read.file.parent), **values["data"]}
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as error:
        raise FatalError(explain(error, lambda setting: read.origin(setting) or str(read.file))) from error
    if (origin := read.origin("pretrain.settings.seed")) is not None:
        raise FatalError(
            f"{origin}: pretrain.settings.seed = {recipe.pretrain.settings.seed}: has no effect, since each variant is "
            f"trained once per seed of a list; set pretrain.seeds = [{recipe.pretrain.settings.seed}]"
        )
    for doubt in _doubts(recipe, read):
        warnings.warn(doubt, stacklevel=2)
    return recipe.with_paths("file_read", lambda setting, path: _found(path, read.origin(setting)))


def _doubts(recipe: Recipe, read: RecipeValues) -> Iterator[str]:
    """Yields warnings of settings that probably do something other than intended."""
    file = read.file
    yield from _second_store(recipe.store, file.absolute())
    sources = [source.name for source in recipe.data.sources]
    # A recipe may extend one that has more datasets.
    for number, each in enumerate(recipe.shard.exclude):
        if each.datasets and not set(each.datasets) & set(sources):
            yield (
                f"{file}: shard.exclude.{number} excludes nothing: no source is named {', '.join(each.datasets)}; "
                f"sources are {', '.join(sources)}"
            )
    if recipe.shard.calibration and recipe.shard.confidence != "calibrated":
        yield f'{file}: shard.calibration has no effect; set shard.confidence = "calibrated" to use it'
    steps = build_steps(recipe)
    if read.origin("data.label") is None and any(step.stage is TagStage and not step.datasets for step in steps):
        yield (
            f"{file}: with data.mix or data.test, no dataset is labelled unless data.label names it; set data.label, "
            "or data.label = [] to label none"
        )
    unused = read.values.keys() & NEED_TAGGER
    if unused and recipe.data.label and recipe.run.until is None and steps[-1].stage is ParseStage:
        yield (
            f"{file}: the run ends with triplets and does not use {', '.join(sorted(unused))}: no tagger is named; set "
            'tag.weights, or data.tagger to a dataset with relations, or tag.method = "prior"'
        )
    if not any(step.stage is PretrainStage for step in steps):
        return
    variants, training = set(recipe.pretrain.variants), recipe.pretrain.settings
    if variants - {"none"} and recipe.shard.without_relations == "keep" and not training.self_pairs:
        yield (
            f"{file}: without pretrain.settings.self_pairs, an image without a relation teaches that it shows nothing; "
            'set shard.without_relations = "drop", or self_pairs = true'
        )
    chosen = read.origin("pretrain.settings.predicate_form") is not None
    if "given" in variants and recipe.data.test and training.predicate_form == "surface" and not chosen:
        yield (
            f"{file}: official = true trains with predicates as worded, but data.test is scored with canonical ones; "
            'set pretrain.settings.predicate_form = "predicate" for fine-tuning, or "surface" to keep it'
        )


def _second_store(store: str, recipe: Path) -> Iterator[str]:
    """Yields a warning if a relative store names none here but one at a folder above the recipe, e.g. in a cron job."""
    if "://" in store or (local_folder(store) / "artifacts").is_dir() or recipe.is_relative_to(RECIPES):
        return
    for other in (folder / local_folder(store) for folder in recipe.parents):
        if (other / "artifacts").is_dir():
            here = f"store = {store}: there is no store in {Path.cwd()}, so a new, empty one would be created there"
            yield f"{here}; to use {other}, set `store` to that path, or start rlip in the folder where it is {store}"
            return


def _found(path: str | Path, origin: str | None) -> str | Path:
    """A path in a recipe file: from the current folder, else next to that file if it exists only there."""
    beside = path if origin in (None, SET) else Path(origin).parent / path
    with suppress(OSError):  # of a name that no file can have
        return path if Path(path).exists() or not Path(beside).exists() else beside
    return path


def recorded_recipe(run: Run, document: str = "") -> Recipe | None:
    """The recipe that was recorded with a run, as `Run.recipe` chooses it; None without one, e.g. of imported labels.

    `document`: where to read it instead, e.g. `STARTED`. Raises `FatalError` when another version recorded it in a form
    that this one does not know.
    """
    values: Any = run.read_document(document) if document else run.recipe
    # A record is never rewritten, so there is nobody to warn.
    with warnings.catch_warnings(action="ignore"):
        use_present_names(values, "recipe.json")
    while values:
        try:
            return Recipe.model_validate(values)
        except ValidationError as error:
            unknown = [mistake["loc"] for mistake in error.errors() if mistake["type"] == "extra_forbidden"]
            if not unknown:
                reason = explain(error, lambda setting: "recipe.json")
                raise FatalError(
                    f"the recipe recorded with run {run.name!r} is from a different version ({reason}); run it again"
                ) from error
            for *sections, name in unknown:
                del reduce(getitem, sections, values)[name]
    return None


def read_recipe(path: Path, overrides: Sequence[str] = ()) -> RecipeValues:
    """Read a recipe file over those that it extends, and apply overrides such as `caption.top_p=0.8`.

    `path`: the file, with or without .toml, or the name of a built-in recipe.

    Raises `FatalError` that names the file, or quotes the override.
    """
    path = _recipe_file(path)
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    layers: dict[Path, dict[str, Any]] = {}
    _add_layers(path, layers)
    *bases, (_, own) = layers.items()
    # With the name of one that it extends, both would be the same run.
    for file, found in [*((file, {k: v for k, v in base.items() if k != "name"}) for file, base in bases), (path, own)]:
        if "scenes" not in found and _moves_sources(values.get("data"), found.get("data")):
            # The world of the replaced sources would be drawn into the folder of the new ones.
            values.pop("scenes", None)
            origins = {name: origin for name, origin in origins.items() if not name.startswith("scenes.")}
        values = joined(values, found)
        origins = _without_replaced(origins, found) | dict.fromkeys(dict(flat(found)), str(file))
    for override in map(_with_present_name, overrides):
        apply_override(values, override)
        origins[override.partition("=")[0]] = SET
    return RecipeValues(path, values, origins)


def _moves_sources(below: Any, above: Any) -> bool:
    """Whether a section `data` replaces the sources of the one that it extends by those of another folder."""
    both = all(isinstance(each, dict) and "sources" in each for each in (below, above))
    return both and bool(below["root"] != above["root"])  # `_add_layers` gives each a root


def use_present_names(values: dict[str, Any], file: str) -> None:
    """Renames the settings in `values` that have a former name, in place, with a warning for each.

    Raises `FatalError` for a setting that has both names.
    """
    for former, name in FORMER_NAMES.items():
        *sections, last = former.split(".")
        *targets, present = name.split(".")
        section: Any = values
        for each in sections:
            section = section.get(each) if isinstance(section, dict) else None
        if not isinstance(section, dict) or last not in section:
            continue
        target: Any = values
        for each in targets:
            target = target.setdefault(each, {}) if isinstance(target, dict) else None
        if not isinstance(target, dict):
            continue  # validation reports what is not a section
        if present in target:
            raise FatalError(f"{file}: {former} is the former name of {name}, which is set too; remove {former}")
        target[present] = section.pop(last)
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
    """Adds the values of the recipes that a recipe extends, then its own, in the order that counts; each file once."""
    values = _parsed(path)
    use_present_names(values, str(path))
    if isinstance(values.get("data"), dict) and "sources" in values["data"]:
        # Sources lie relative to the recipe that lists them, not to one that extends it.
        values["data"].setdefault("root", str(path.parent))
    extended = values.pop("extends", [])
    names = [extended] if isinstance(extended, str) else extended
    if not isinstance(names, list) or not all(isinstance(name, str) and "\0" not in name for name in names):
        raise FatalError(f"{path}: extends = {extended!r}: name one recipe, e.g. {EXAMPLE}")
    chain = (*extending, path.resolve())
    for name in names:
        base = _recipe_file(Path(name), path.parent)
        if base.resolve() in chain:
            raise FatalError(f"{path}: extends {name}, which extends it in turn; remove one `extends`")
        if base not in layers:
            _add_layers(base, layers, chain)
    layers[path] = values


def _recipe_file(name: Path, folder: Path = Path()) -> Path:
    """The file of a recipe: in `folder`, else among our own. Raises `FatalError` that says where it looked."""
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
        f"no recipe at {missing}{meant}; recipes in {missing.parent.absolute()}: {', '.join(near) or 'none'}; "
        f"built-in recipes, by name: {', '.join(own)}, paper/..."
    )


def _parsed(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > LONGEST_FILE:
            raise FatalError(f"{path}: not a recipe: it has more than {LONGEST_FILE:,} bytes")
        # A recipe may begin with a byte order mark.
        return parse_toml(path.read_text(encoding="utf-8-sig"))
    except (ValueError, OSError) as error:
        raise FatalError(f"{path}: not a readable TOML file: {error}") from error


def explain(error: ValidationError, origin: Callable[[str], str]) -> str:
    """One line per error: the file that sets the field, field, value, and what is allowed."""
    lines = []
    mistakes = error.errors()
    for mistake in mistakes:
        if any(_explains(other, mistake) for other in mistakes):
            continue
        field = ".".join(str(part) for part in mistake["loc"]) or "recipe"
        must = wanted(mistake)
        file = origin(".".join([*map(str, mistake["loc"]), *_AT_FAULT.findall(must)]))
        if mistake["type"] == "extra_forbidden":
            allowed = _allowed(mistake["loc"])
            question = did_you_mean(str(mistake["loc"][-1]), allowed)
            lines.append(f"{file}: {field}: unknown name{question}; allowed are {', '.join(allowed) or 'none'}")
        elif mistake["type"] == "missing":
            lines.append(f"{file}: {field}: missing")
        else:
            value = "" if isinstance(mistake["input"], dict | list | Settings) else f" = {mistake['input']!r:.200}"
            if value and file == SET and mistake["type"] in _QUOTED:
                must += f"; in a shell, {SET} '{field}={_QUOTED[mistake['type']]}'"
            lines.append(f"{file}: {field}{value}: {must}"[:500])
    return "\n".join(lines)


def _explains(cause: ErrorDetails, mistake: ErrorDetails) -> bool:
    """Whether a setting's name is misspelt, or a list too short because of a mistake in a member."""
    if mistake["type"] == "missing":
        *section, name = mistake["loc"]
        *other, misspelt = cause["loc"] or ("",)
        return (
            cause["type"] == "extra_forbidden" and other == section and bool(did_you_mean(str(misspelt), [str(name)]))
        )
    return len(cause["loc"]) > (length := len(mistake["loc"])) and cause["loc"][:length] == mistake["loc"]


_AT_FAULT = re.compile(r"^(?:network setting )?([\w.]+)[:=]")
"""A check of a whole section begins its message with the setting at fault."""

_WANTED = {
    "int": "give a whole number",
    "float": "give a number",
    "bool": "give true or false",
    "string": "give text in quotes",
    "path": "give a path in quotes",
    "tuple": 'give a list, e.g. ["coco"]',
    "list": 'give a list, e.g. ["coco"]',
    "model": "give a section, e.g. [section] with one setting a line",
    "dict": "give a section, e.g. [section] with one setting a line",
    "literal_error": "give one of {expected}",
    "greater_than_equal": "give at least {ge}",
    "greater_than": "give more than {gt}",
    "less_than_equal": "give at most {le}",
    "less_than": "give less than {lt}",
    "string_pattern_mismatch": "give text that matches {pattern}",
    "string_too_short": "give at least {min_length} character(s)",
    "too_short": "give at least {min_length}",
}
"""Kind of mistake, or its first word → what a setting must be."""
_QUOTED = {"tuple_type": '["coco"]', "string_type": '"text"', "path_type": '"path"'}
"""Kind of mistake → a value with quotes, which a shell takes away unless others enclose them."""


def wanted(mistake: Any) -> str:
    """What a setting must be, in words. Checks of this project say it themselves."""
    kind, context = mistake["type"], mistake.get("ctx", {})
    if kind in ("value_error", "assertion_error"):
        return str(context.get("error", mistake["msg"]))
    if kind == "tuple_type" and isinstance(mistake["input"], dict) and _allowed((*mistake["loc"], 0)):
        return f"write its heading in double brackets: [[{'.'.join(map(str, mistake['loc']))}]]"
    known = _WANTED.get(kind) or _WANTED.get(kind.partition("_")[0])
    return known.format(**context) if known else str(mistake["msg"])


def _allowed(location: tuple[int | str, ...]) -> list[str]:
    """The field names of the section that `location` points into."""
    section: Any = Recipe
    for part in location[:-1]:
        if isinstance(part, str) and part in getattr(section, "model_fields", {}):
            section = _model_of(section.model_fields[part].annotation)
    return sorted(getattr(section, "model_fields", {}))


def _model_of(annotation: Any) -> Any:
    """The settings class inside an annotation such as `X | None` or `tuple[X, ...]`."""
    inner = [a for a in getattr(annotation, "__args__", ()) if hasattr(a, "model_fields")]
    return inner[0] if inner else annotation
