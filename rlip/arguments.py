"""Checks the arguments of functions as those of commands are checked."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache, wraps
from typing import Any, ParamSpec, TypeVar

from pydantic import ValidationError, validate_call

from pipeline.run.recipe_files import wanted
from pipeline.runtime.settings import expanded
from storage.errors import FatalError, did_you_mean

P = ParamSpec("P")
R = TypeVar("R")


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """A function that raises `Error` for an unknown argument or another type, and reads `~` as the home folder."""
    names = list(inspect.signature(function).parameters)
    validated = cache(lambda: validate_call(function))  # types may be declared below the function

    @wraps(function)
    def call(*args: Any, **options: Any) -> R:
        try:
            return validated()(*map(expanded, args), **{name: expanded(value) for name, value in options.items()})
        except ValidationError as error:
            raise FatalError(_fault(error, names)) from error

    return call


def _fault(error: ValidationError, names: list[str]) -> str:
    """The first mistake, with the argument and what it may be."""
    mistake, *_ = error.errors()
    place = mistake["loc"][0]
    name = names[place] if isinstance(place, int) else place
    if mistake["type"] == "unexpected_keyword_argument":
        return f"unknown argument {name!r}{did_you_mean(name, names)}; the arguments are {', '.join(names)}"
    return f"{name} = {mistake['input']!r}: {wanted(mistake)}"
