"""What the parameters of a deployment may name on a worker's machine: its own environment decides, and never they."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pipeline.captioning.settings import CaptionSettings
from pipeline.run.recipe import Recipe
from storage.errors import FatalError
from storage.open_store import is_remote, local_folder

STORES = "RLIP_STORES"
"""Folders and URLs, separated by spaces, in which stores may lie. Unset: anywhere."""
LAVIS_PYTHON = "RLIP_LAVIS_PYTHON"
"""The only interpreter besides the default that captioner `lavis` may start."""


def require_allowed(recipe: Recipe, environment: Mapping[str, str]) -> None:
    """Raise `FatalError` for a recipe that names a store or an interpreter which the worker's environment does not allow."""
    python = recipe.caption.lavis_python
    default = CaptionSettings.model_fields["lavis_python"].default
    if str(python) not in (str(default), environment.get(LAVIS_PYTHON)):
        raise FatalError(
            f"caption.lavis_python = {python}: a deployment starts {default} or what {LAVIS_PYTHON} names in its worker's "
            "environment, and no other program"
        )
    allowed = environment.get(STORES, "").split()
    if allowed and not any(_is_within(recipe.store, place) for place in allowed):
        raise FatalError(
            f"store = {recipe.store}: stores of this worker lie in {', '.join(allowed)}; name one there, or add its place to "
            f"{STORES} in the worker's environment"
        )


def _is_within(store: Path | str, place: str) -> bool:
    """Whether a store lies at or below a place. Links count as what they lead to."""
    if is_remote(store) or is_remote(place):
        below = str(store).removeprefix(place.rstrip("/"))
        return below != str(store) and below[:1] in ("", "/") and ".." not in below.split("/")
    return local_folder(store).resolve().is_relative_to(local_folder(place).resolve())
