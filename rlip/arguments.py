"""Checks the arguments of functions the way commands check theirs."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from inspect import signature
from os import PathLike, fspath
from typing import Annotated, Any, ParamSpec, TypeVar

from pydantic import Field, ValidationError, validate_call

from pipeline.run.recipe_files import wanted
from pipeline.runtime.settings import expanded
from storage.errors import FatalError, did_you_mean

Score = Annotated[float, Field(ge=0, le=1)]
P = ParamSpec("P")
R = TypeVar("R")


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Wraps a function: an unknown argument or a wrong type raises `Error`, and `~` is read as the home folder.

    Paths of any type are passed on as text, which every command accepts.
    """
    validated = cache(lambda: validate_call(function))  # types may be declared below the function

    @wraps(function)
    def call(*args: Any, **options: Any) -> R:
        try:
            return validated()(*map(_given, args), **{name: _given(value) for name, value in options.items()})
        except ValidationError as error:
            mistake, names = error.errors()[0], list(signature(function).parameters)
            place = mistake["loc"][0]
            name = names[place] if isinstance(place, int) and place < len(names) else str(place)
            fault = f"{name} = {mistake['input']!r:.200}: {wanted(mistake)}"
            if mistake["type"] == "unexpected_keyword_argument":
                fault = f"unknown argument {name!r}{did_you_mean(name, names)}; the arguments are {', '.join(names)}"
            raise FatalError(fault) from error

    return call


def _given(value: Any) -> Any:
    return expanded(fspath(value) if isinstance(value, PathLike) else value)
