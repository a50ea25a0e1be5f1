"""Plug-ins: what packages register in the groups of entry points `rlip.*`, those of this project among them.

A plug-in is imported when it is used, so a broken one costs its users a message and everybody else nothing. Its
`version`, if it has one, is part of the keys of what it makes; its `Options` are the settings that recipes give it.
"""

from __future__ import annotations

from abc import ABC
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, ClassVar

from pydantic import ConfigDict, ValidationError

from pipeline.runtime.settings import Settings
from pipeline.runtime.stage import Resources, Stage
from storage.errors import FatalError, did_you_mean


@cache
def _registered(group: str) -> Mapping[str, list[EntryPoint]]:
    """Name → what is registered under it. Reading the environment's metadata takes about 10 ms."""
    found: dict[str, list[EntryPoint]] = defaultdict(list)
    for entry in entry_points(group=f"rlip.{group}"):
        found[entry.name].append(entry)
    return found


def plugin_names(group: str) -> tuple[str, ...]:
    """The names in a group, e.g. "captioners", in alphabetical order."""
    return tuple(sorted(_registered(group)))


def load_plugin(group: str, name: str) -> Any:
    """What is registered under a name. Raises `FatalError` for an unknown or ambiguous name, and for a broken
    plug-in."""
    found = _registered(group).get(name, [])
    if not found:
        known = plugin_names(group)
        raise FatalError(
            f"no {group.removesuffix('s')} {name!r}{did_you_mean(name, known)}; registered are "
            f"{', '.join(known) or 'none'}. Install the package that provides it, or install rlip again (pip install "
            "-e .) if rlip provides it"
        )
    if len(found) > 1:
        packages = ", ".join(map(_package, found))
        raise FatalError(f"{group.removesuffix('s')} {name!r} is registered by {packages}; uninstall all but one")
    try:
        return found[0].load()
    except Exception as error:  # whatever the plug-in's own code raises
        raise FatalError(
            f"{group.removesuffix('s')} {name!r} of package {_package(found[0])} can't be imported "
            f"({found[0].value}: {error!r}); install what it needs, or another version of it"
        ) from error


def _package(entry: EntryPoint) -> str:
    """The package that registers a plug-in. Parsing its metadata takes .4 ms, so only messages name it."""
    return str(entry.dist and entry.dist.name)


@dataclass(frozen=True)
class PluginName:
    """Validates a setting that names a plug-in."""

    group: str

    def __call__(self, name: str) -> str:
        """Returns the name. Raises ValueError if nothing is registered under it."""
        if name not in (known := plugin_names(self.group)):
            raise ValueError(
                f"give one of {', '.join(map(repr, known))}{did_you_mean(name, known)}, or install its package"
            )
        return name


class PluginOptions(Settings):
    """Options of a plug-in, as a recipe gives them; `options_of` checks them."""

    model_config = ConfigDict(extra="allow")

    def __bool__(self) -> bool:
        return bool(self.model_extra)


def options_of(plugin: Any, given: PluginOptions, setting: str) -> Settings:
    """The options of a plug-in. `setting`: where recipes have them. Raises `FatalError` that names the option."""
    try:
        options: Settings = getattr(plugin, "Options", Settings).model_validate(given.model_extra)
        return options
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, (setting, *first["loc"])))
        allowed = ", ".join(getattr(plugin, "Options", Settings).model_fields) or "none"
        raise FatalError(f"{place}: {first['msg'].removeprefix('Value error, ')}; the options are {allowed}") from error


def plugin_terms(plugin: Any, options: Settings | None = None) -> dict[str, Any]:
    """What a plug-in adds to keys: its version and options, unless it is this project's, which the stage versions."""
    terms: dict[str, Any] = {"version": plugin.version} if hasattr(plugin, "version") else {}
    given = {} if options is None else {"options": options.row_settings()}
    return {**terms, **given} if terms or any(given.values()) else {}


class Plugin(ABC):
    """What is registered as a captioner or labeller: what it reads and how it is opened. Creating it must be quick."""

    version: ClassVar[int]
    """Part of the key: raise it whenever the same input would give a different result. Required for other packages."""
    Options: ClassVar[type[Settings]] = Settings
    """Its settings, section `options` of its stage in a recipe. They are part of the key, unless declared `runtime`."""
    imports: ClassVar[tuple[str, ...]] = ()
    """Modules that take seconds to import; they are imported once for all workers."""
    uses_gpu: ClassVar[bool] = False
    """Whether it runs on the device of setting `device`, or always on the CPU."""

    def __init__(self, settings: Any) -> None:
        """Raises `FatalError` for options that it does not have. `settings`: those of its stage."""
        self.settings = settings
        self.options = options_of(self, settings.options, f"{settings.section}.options")

    def row_settings(self) -> dict[str, Any]:
        """Further settings for the key."""
        return plugin_terms(self, self.options)

    def files(self) -> dict[str, Path]:
        """Files or folders whose content is part of the key, by role. Raises `FatalError` when one is missing."""
        return {}


class PluginSettings(Settings):
    """Settings of a stage whose work a captioner or labeller does."""

    section: ClassVar[str]
    """The recipe's section of these settings."""
    group: ClassVar[str]
    """The plug-in's group, e.g. "captioners"."""
    named_by: ClassVar[str]
    """The setting that names the plug-in."""

    @property
    def plugin(self) -> Any:
        """The plug-in. Raises `FatalError` if its package is broken, or for an option that it does not have."""
        return load_plugin(self.group, getattr(self, self.named_by))(self)


class PluginStage(Stage):
    """A stage whose work a captioner or labeller does."""

    uses_gpu = True

    @property
    def plugin(self) -> Plugin:
        """The plug-in that the settings name. Raises `FatalError` as `PluginSettings.plugin` does."""
        plugin: Plugin = self.settings.plugin
        return plugin

    def row_settings(self) -> dict[str, Any]:
        """The settings that change rows, with those of the plug-in."""
        return super().row_settings() | self.plugin.row_settings()

    def files(self) -> dict[str, Path]:
        """The files of the plug-in. Raises `FatalError` if one is missing."""
        return self.plugin.files()

    def imports(self) -> tuple[str, ...]:
        """The modules of the plug-in."""
        return self.plugin.imports

    def resources(self) -> Resources:
        """The resources of one worker."""
        return Resources.on(self.settings.device if self.plugin.uses_gpu else "cpu", self.files().values())
