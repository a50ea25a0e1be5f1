"""The Python library: run recipes, label images, load weights, read shards, evaluate (docs/api.md).

A name is imported when it is first used, so `import rlip` loads neither torch nor Prefect.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlip.model import (
        Evaluation as Evaluation,
        Model as Model,
        Prediction as Prediction,
        evaluate as evaluate,
        load as load,
    )
    from rlip.runs import Error as Error, Run as Run, Store as Store, label as label, open as open, run as run
    from rlip.samples import stream as stream

_HOMES = {
    "run": "runs", "label": "runs", "open": "runs", "Run": "runs", "Store": "runs", "Error": "runs",
    "load": "model", "Model": "model", "Prediction": "model",
    "stream": "samples",
    "evaluate": "model", "Evaluation": "model",
}  # fmt: skip
"""Public name → the module that has it."""
__all__ = list(_HOMES)


if not TYPE_CHECKING:  # type checkers would take every name for one that exists

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module 'rlip' has no attribute {name!r}; it has {', '.join(_HOMES)}")
        return getattr(import_module(f"rlip.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(_HOMES)
