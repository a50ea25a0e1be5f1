"""Settings: the strict, frozen base of every section, and overrides from the command line (`--set NAME=VALUE`)."""

from __future__ import annotations

import ipaddress
import json
import socket
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from pipeline.runtime.devices import has_bfloat16
from storage.errors import FatalError


def runtime(default: Any, **constraints: Any) -> Any:
    """A field that cannot change rows (batch size, threads, a path whose content is digested). It is part of no key."""
    return Field(default, json_schema_extra={"runtime": True}, **constraints)


PathMark = Literal["file_read", "data_file"]


def file_read(default: Any) -> Any:
    """A field with the path of a file or folder that a run reads. Its content may be part of a key, its path not."""
    return Field(default, json_schema_extra={"runtime": True, "file_read": True})


def data_file(default: Any) -> Any:
    """A `file_read` whose relative paths start at `data.root`."""
    return Field(default, json_schema_extra={"runtime": True, "data_file": True})


class Settings(BaseModel):
    """Settings of one part of a recipe. Unknown names and wrong types raise errors that name the field."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _tilde_is_the_home_folder(cls, values: Any) -> Any:
        return {name: expanded(value) for name, value in values.items()} if isinstance(values, dict) else values

    def row_settings(self) -> dict[str, Any]:
        """The fields that change rows, as JSON values, which go into a key. One that was renamed keeps its former name
        there, its alias."""
        fields = type(self).model_fields
        kept = {name for name, field in fields.items() if not has_mark(field.json_schema_extra, "runtime")}
        return self.model_dump(mode="json", include=kept, by_alias=True)

    def planned(self) -> Self:
        """These settings with what a run determines once, before its first step, so that plan and workers share it,
        such as the precision that "auto" stands for on this machine."""
        if getattr(self, "precision", None) != "auto":
            return self
        fastest = "bfloat16" if has_bfloat16(str(getattr(self, "device", "cpu"))) else "float32"
        return self.model_copy(update={"precision": fastest})

    def with_paths(self, mark: PathMark, find: Callable[[str, str | Path], str | Path], section: str = "") -> Self:
        """These settings with what `find` makes of the dotted name and value of each path in a field with this mark."""
        changed: dict[str, Any] = {}
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            visited = _visited(value, mark, has_mark(field.json_schema_extra, mark), find, f"{section}{name}")
            if visited != value:
                changed[name] = visited
        return self.model_copy(update=changed) if changed else self


def expanded(value: Any) -> Any:
    """A setting with the home folder for a leading `~`, as in a shell, also in the texts of a list."""
    if isinstance(value, list | tuple):
        return [expanded(each) for each in value]
    is_below_home = isinstance(value, str | Path) and Path(value).parts[:1] == ("~",)
    return type(value)(Path(value).expanduser()) if is_below_home else value


def _visited(
    value: Any, mark: PathMark, has_mark: bool, find: Callable[[str, str | Path], str | Path], name: str
) -> Any:
    """A setting with `find` applied to its paths, in sections and lists too."""
    if isinstance(value, Settings):
        return value.with_paths(mark, find, f"{name}.")
    if isinstance(value, tuple):
        return tuple(_visited(each, mark, has_mark, find, f"{name}.{number}") for number, each in enumerate(value))
    return type(value)(find(name, value)) if has_mark and value is not None else value


_DEEPEST = 50
"""Dots and brackets that may open one within another in a line of a recipe."""


def parse_toml(text: str) -> dict[str, Any]:
    """Parses TOML. Raises ValueError for invalid text, sections nested too deeply, and numbers that are too long."""
    for number, line in enumerate(text.splitlines(), start=1):
        if line.partition("=")[0].count(".") > _DEEPEST:
            raise ValueError(f"a name of more than {_DEEPEST} parts in line {number}")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("lists or tables nested too deeply") from None


def toml_value(value: Any) -> str:
    """Writes a value as TOML, in one line. What TOML has no type for becomes text."""
    if isinstance(value, Mapping):
        fields = (f"{toml_value(str(name))} = {toml_value(each)}" for name, each in value.items())
        return f"{{{', '.join(fields)}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml_value, value))}]"
    if isinstance(value, float):  # inf and nan, for which JSON has other words
        return str(value)
    return json.dumps(value, default=str, ensure_ascii=False)


def apply_override(values: dict[str, Any], override: str) -> None:
    """Set one dotted name; an index addresses a list member, e.g. `data.sources.0.images=...`.

    The value is read as TOML, or as plain text where it is not valid TOML. Raises `FatalError` that quotes the
    override.
    """
    name, separator, text = override.partition("=")
    if not separator or not name:
        raise FatalError(f"--set {override}: write NAME=VALUE, e.g. --set caption.top_p=0.8")
    try:
        value = parse_toml(f"value = {text}")["value"]
    except ValueError:
        value = text
    *parents, last = name.split(".")
    place: Any = values
    for parent in parents:
        try:
            place = place[int(parent)] if isinstance(place, list) else place.setdefault(parent, {})
        except (ValueError, IndexError, AttributeError) as error:
            raise FatalError(f"--set {override}: {parent!r} is not a section or list item") from error
    if isinstance(place, list) and last.isdigit() and int(last) < len(place):
        place[int(last)] = value
    elif isinstance(place, dict):
        place[last] = value
    else:
        raise FatalError(f"--set {override}: {name!r} is not a field that can be set")


def flat(values: Mapping[str, Any] | list[Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Each setting with its dotted name. Sections in a list are numbered; a list of values is one setting."""
    for name, value in values.items() if isinstance(values, Mapping) else enumerate(values):
        if value and (isinstance(value, dict) or (isinstance(value, list) and isinstance(value[0], dict))):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def has_mark(extra: Any, mark: str) -> bool:
    """Whether a field was declared with a mark, given its `json_schema_extra`."""
    return isinstance(extra, dict) and bool(extra.get(mark))


def split_address(address: str) -> tuple[str, int]:
    """Returns host and port of "HOST:PORT" ("[HOST]:PORT" for IPv6).

    Raises `ValueError` when it is malformed or means all interfaces of the machine.
    """
    host, separator, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not separator or not host or "/" in host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ValueError(f"{address!r} is not of the form HOST:PORT, such as 10.0.0.7:29500")
    try:
        everywhere = ipaddress.ip_address(host).is_unspecified
    except ValueError:
        everywhere = False
    if everywhere:
        raise ValueError(
            f"{address!r} means all interfaces of the machine; name the address that the other nodes connect to"
        )
    return host, int(port)


def resolve(address: str) -> str:
    """Returns the IP address of "HOST:PORT". Raises `OSError` for an unknown host."""
    host, port = split_address(address)
    return str(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][4][0])


def _checked(address: str) -> str:
    split_address(address)
    return address


Address = Annotated[str, AfterValidator(_checked)]
"""A setting of the form HOST:PORT."""
