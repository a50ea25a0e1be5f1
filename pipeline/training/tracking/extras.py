"""The packages of trackers, which are extras of this project."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec

from storage.errors import FatalError

_PACKAGES = {
    "tensorboard": ("tensorboard",),
    "wandb": ("wandb",),
    "mlflow": ("mlflow", "sqlalchemy", "alembic"),
    "trackio": ("trackio",),
}
"""Tracker → the packages that it imports, sooner or later."""


def require_extras(kinds: Iterable[str]) -> None:
    """Raises `FatalError` that names the extra when the packages of a tracker are not installed. Imports none of them."""
    for kind in kinds:
        missing = [package for package in _PACKAGES[kind] if find_spec(package) is None]
        if missing:
            raise FatalError(f"the tracker {kind!r} needs {', '.join(missing)}: pip install 'rlip[{kind}]'")
