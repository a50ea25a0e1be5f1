"""Writes docs/cli.md, docs/settings.md and docs/api.md from code: `python docs/reference.py`. A test compares them."""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Callable, Iterator
from dataclasses import fields as dataclass_fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import typer
from pydantic import BaseModel
from pydantic._internal._docs_extraction import extract_docstrings_from_cls

import rlip
from pipeline.captioning.captioner import Captioner, CaptionerPlugin
from pipeline.cli.app import COMMANDS, app, declared
from pipeline.data.datasets.reader import Reader
from pipeline.detection.detector import Detector
from pipeline.evaluation.benchmark import Metric
from pipeline.interop.export_run import Writer
from pipeline.run.recipe import Recipe
from pipeline.runtime.plugins import PluginName, load_plugin, plugin_names
from pipeline.runtime.settings import Settings
from pipeline.stages.labellers import Labeller, LabellerPlugin
from pipeline.stages.order import STAGES

HERE = Path(__file__).parent
MADE = "<!-- Made by `python docs/reference.py` from the code. -->"


def cli_page() -> str:
    """The commands of `rlip`, with their arguments and options."""
    panels = {
        panel: [command for name in names for command in _commands(declared(name), "rlip")]
        for panel, names in COMMANDS.items()
    }
    lines = [MADE, "", "# Commands", "", app.info.help]
    for panel, commands in panels.items():
        lines += ["", f"**{panel}**", "", "| command | what it does |", "|---|---|"]
        lines += [f"| [`{name}`](#{name.replace(' ', '-')}) | {_summary(command)} |" for name, command in commands]
    for name, command in (each for commands in panels.values() for each in commands):
        parameters = list(_parameters(command))
        arguments = [shown for kind, shown, _, _ in parameters if kind == "argument"]
        lines += ["", f"## {name}", "", _doc(command), "", f"    {' '.join([name, *arguments, '[OPTIONS]'])}", ""]
        lines += ["| name | meaning | default |", "|---|---|---|"]
        lines += [f"| `{shown}` | {text} | {default} |" for _, shown, text, default in parameters]
    return "\n".join(lines) + "\n"


def settings_page() -> str:
    """The sections of a recipe, with every setting, its default and whether it decides rows."""
    lines = [
        MADE, "", "# Settings", "",
        "Every setting of a recipe, by section, with its default or, if it has none, its type in parentheses. A ● "
        "marks",
        "settings that decide rows: changing one recomputes its stage and any later stage whose input changes. Data, "
        "models",
        "and other input files decide rows by their content. Other settings (paths, batch sizes, devices, workers) "
        "change no",
        "row. `rlip run RECIPE --set shard.threshold=0.3` overrides a setting for a single run.",
        "",
        "Relative paths start at the current folder, or at the recipe's if they exist only there. Those of sources,",
        "`caption.recorded`, `shard.exclude`, `shard.verdicts`, `split` and `evaluate.vcoco` start at `data.root`. "
        "`~/` is",
        "the home folder.",
    ]  # fmt: skip
    sections = list(_sections(Recipe, "", keyed=False, seen=set()))
    for group, section in (("captioners", "caption"), ("labellers", "tag"), ("detectors", "detect")):
        options = (getattr(load_plugin(group, name), "Options", Settings) for name in plugin_names(group))
        sections += [(f"{section}.options", each, True) for each in options]
    homes = {model: (section, _settings_of(model)) for section, model, _ in sections if section}
    for section, model, keyed in sections:
        settings = _settings_of(model)
        if not settings:
            continue
        lines += ["", f"## {section or 'the recipe'}", "", _summary(model), ""]
        bases = [base for base in model.__mro__[1:] if issubclass(base, Settings) and base is not Settings]
        home, theirs = next((homes[base] for base in bases if base in homes), ("", {}))
        shared = [name for name, rest in theirs.items() if settings.get(name) == rest]
        if shared:
            others = [name for name in theirs if name not in shared]
            named, before = (others, "all settings but ") if len(others) < len(shared) else (shared, "")
            which = before + ", ".join(f"`{name}`" for name in named) if named else "all settings"
            lines += [f"It also has {which} of [{home}](#{home.replace('.', '')}).", ""]
        else:
            homes |= dict.fromkeys(bases, (section, settings))
        lines += [_setting(name, *rest, keyed) for name, rest in settings.items() if name not in shared]
    return "\n".join(lines) + "\n"


PLUGINS = {
    "captioners": (CaptionerPlugin, Captioner), "labellers": (LabellerPlugin, Labeller), "detectors": (Detector,),
    "datasets": (Reader,), "exports": (Writer,), "metrics": (Metric,),
}  # fmt: skip
"""Group of entry points → what is registered there, and what that opens."""


def api_page() -> str:
    """The names of `rlip`, and the protocols of plug-ins."""
    lines = [
        MADE, "", "# Python", "",
        "`import rlip` is lazy: a name is imported when it is first used. Invalid input raises",
        "`rlip.Error`, whose message says what to do. Tables are pyarrow's; with pandas, `.to_pandas()` converts them.",
        "In a notebook, runs and stores appear as tables, predictions and explanations as drawn images. Progress bars",
        "need ipywidgets. A `models.py`, `storage.py` or `pipeline.py` of yours, next to a script or on PYTHONPATH,",
        "hides the [package](../README.md#the-tree) of that name, which `rlip` imports: rename it.",
    ]  # fmt: skip
    for name in rlip.__all__:
        found = getattr(rlip, name)
        if inspect.isfunction(found):
            lines += ["", f"## rlip.{name}", "", f"    rlip.{name}{_signature(found)}", "", _doc(found)]
    for name in rlip.__all__:
        found = getattr(rlip, name)
        if inspect.isclass(found):
            lines += ["", f"## rlip.{name}", "", _doc(found), *_members(found)]
    lines += [
        "", "## Plug-ins", "",
        "A package registers a plug-in in a group of entry points, under the name that recipes and commands use.",
        "[examples/plugin](../examples/plugin) adds a captioner and an export. `rlip.plugins` has the classes below "
        "and the",
        "types of their arguments and results.",
    ]  # fmt: skip
    for group, classes in PLUGINS.items():
        lines += ["", f"### rlip.{group}", "", f"Registered by this project: {', '.join(plugin_names(group))}."]
        for each in classes:
            lines += ["", f"`{each.__name__}`: {_doc(each)}", *_members(each)]
    return "\n".join(lines) + "\n"


def _members(of: type[Any]) -> Iterator[str]:
    """A list of what a class documents: its fields, and its methods and properties in order."""
    yield ""
    yield from (f"- `{name}`: {' '.join(text.split())}" for name, text in _meanings(of).items())
    for name in dict.fromkeys(name for base in reversed(of.__mro__[:-1]) for name in vars(base)):
        member = inspect.getattr_static(of, name)
        function = getattr(member, "__func__", member)
        is_public = not name.startswith("_") or name == "__call__" or getattr(member, "__isabstractmethod__", False)
        if is_public and isinstance(member, property) and inspect.getdoc(member):
            yield f"- `{name}`: {_doc(member)}"
        if is_public and inspect.isfunction(function) and inspect.getdoc(function):
            yield f"- `{name}{_signature(function)}`: {_doc(function)}"


def _signature(function: Callable[..., Any]) -> str:
    """The parameters of a function, without `self` and what it returns if that is nothing."""
    text = re.sub(r"""(: |-> )(['\"])(.*?)\2""", r"\1\3", str(inspect.signature(function)))
    return re.sub(r"^\((self|cls)(, )?", "(", text).removesuffix(" -> None")


def _commands(group: typer.Typer, prefix: str) -> Iterator[tuple[str, Callable[..., None]]]:
    for command in group.registered_commands:
        assert command.callback is not None
        yield f"{prefix} {command.name or command.callback.__name__}", command.callback
    for below in group.registered_groups:
        assert below.typer_instance is not None
        yield from _commands(below.typer_instance, f"{prefix} {below.name}")


def _summary(command: object) -> str:
    return (inspect.getdoc(command) or "").partition("\n\n")[0].replace("\n", " ")


def _doc(of: object) -> str:
    return " ".join((inspect.getdoc(of) or "").split())


def _parameters(command: Callable[..., None]) -> Iterator[tuple[str, str, str, str]]:
    """Kind, name as it is written, meaning and default of each parameter."""
    hints = get_type_hints(command, include_extras=True)
    for name, parameter in inspect.signature(command).parameters.items():
        annotation, info = get_args(hints[name])[:2]
        default = "required" if parameter.default is parameter.empty else _code(parameter.default or None)
        text = " ".join((info.help or "").split()).replace("|", "\\|")
        if isinstance(info, typer.models.ArgumentInfo):
            yield "argument", str(info.metavar or name.upper()), text, default
            continue
        given = [info.default, *(info.param_decls or ())]
        flag = next((word for word in given if str(word).startswith("--")), f"--{name.replace('_', '-')}")
        value = "" if annotation is bool else f" {info.metavar or _type(annotation).upper()}"
        if choices := next((each for each in (annotation, *get_args(annotation)) if get_origin(each) is Literal), None):
            value = " " + "\\|".join(get_args(choices))
        yield "option", f"{flag}{value}", text, default


def _sections(
    model: type[Any], prefix: str, keyed: bool, seen: set[type[Any]]
) -> Iterator[tuple[str, type[Any], bool]]:
    """Dotted name, class, and whether the section is a stage's settings, for a model and all inside it, each once."""
    yield prefix.removesuffix("."), model, keyed
    # The settings of stage `pretrain` are a section of their own.
    stages = {stage.name for stage in STAGES} - {"pretrain"} | {"settings"}
    for name, annotation, _, _, _ in _fields(model):
        inner = _section_of(annotation)
        inherited = any(name in getattr(base, "model_fields", {}) for base in model.__mro__[1:])
        if inner is None or inner in seen or inherited:
            continue
        seen.add(inner)
        yield from _sections(inner, f"{prefix}{name}.", keyed or name in stages, seen)


def _settings_of(model: type[Any]) -> dict[str, list[Any]]:
    """Name → the rest of `_fields`, of each setting that is no section."""
    return {name: rest for name, *rest in _fields(model) if _section_of(rest[0]) is None}


def _fields(model: type[Any]) -> Iterator[tuple[str, Any, Any, str, bool]]:
    """Name, annotation, default, description and whether it is a runtime setting, of each field."""
    meanings = _meanings(model)
    if is_dataclass(model):
        described = getattr(model, "__pydantic_fields__", {})
        for each in dataclass_fields(model):
            info = described[each.name]
            default = info.get_default(call_default_factory=False)
            yield each.name, info.annotation, default, meanings.get(each.name, ""), False
        return
    assert issubclass(model, BaseModel)
    for name, info in model.model_fields.items():
        extra = info.json_schema_extra
        runtime = isinstance(extra, dict) and bool(extra.get("runtime"))
        default = "required" if info.is_required() else info.get_default(call_default_factory=True)
        yield name, info.annotation, default, meanings.get(name, ""), runtime


@cache
def _meanings(model: type[Any]) -> dict[str, str]:
    """Field → its docstring. They are read here alone, since that takes every command a tenth of a second."""
    meanings: dict[str, str] = {}
    for each in reversed(model.__mro__[:-1]):
        meanings |= extract_docstrings_from_cls(each, use_inspect=True)
    return meanings


def _section_of(annotation: Any) -> type[Any] | None:
    """The settings class inside an annotation such as `X`, `X | None` or `tuple[X, ...]`."""
    for each in (annotation, *get_args(annotation)):
        if isinstance(each, type) and (issubclass(each, BaseModel) or is_dataclass(each)):
            return each
    return None


def _setting(name: str, annotation: Any, default: Any, description: str, runtime: bool, keyed: bool) -> str:
    decides = " ●" if keyed and not runtime else ""
    text = " ".join(description.split())
    if default in (None, "", "required", ()):
        type_ = ["required"] * (default == "required") + [_type(annotation)] * (get_origin(annotation) is not Literal)
        return f"- `{name}` ({', '.join(type_)}){decides}: {text}"
    others = [value for value in _choices(annotation) if value != default]
    named = all(re.search(rf"\b{value}\b", text) for value in others)
    choices = "" if named else f" (or {', '.join(map(str, others))})"
    return f"- `{name} = {_toml(default)}`{choices}{decides}: {text}"


def _choices(annotation: Any) -> tuple[Any, ...]:
    """What a setting can be: the values of a Literal, or the names of plug-ins."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    groups = [each.func.group for each in getattr(annotation, "__metadata__", ()) if isinstance(each.func, PluginName)]
    return tuple(name for group in groups for name in plugin_names(group))


def _type(annotation: Any) -> str:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(inner[0])
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in inner)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_type(each) for each in inner if each is not type(None)))
    if origin is tuple:
        return f"list of {_type(inner[0])}"
    if origin is dict:
        return "table"
    names = {int: "integer", float: "number", str: "text", bool: "true or false", Path: "path"}
    return names.get(
        annotation, "table" if _section_of(annotation) else str(getattr(annotation, "__name__", annotation))
    )


def _toml(value: Any) -> str:
    """A value as a recipe writes it."""
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, (str, Path)):
        return f'"{value}"'
    return str(value).lower() if isinstance(value, bool) else str(value)


def _code(value: Any) -> str:
    if value is None or value == "":
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return f"`[{', '.join(map(str, value))}]`"
    return f"`{value}`"


if __name__ == "__main__":
    (HERE / "cli.md").write_text(cli_page(), encoding="utf-8")
    (HERE / "settings.md").write_text(settings_page(), encoding="utf-8")
    (HERE / "api.md").write_text(api_page(), encoding="utf-8")
