"""How far measured arrays are from recorded ones, by group."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from recorded.recording import Arrays

TOLERANCES = {
    "activations": 5e-5,
    "outputs": 1e-5,
    "matches": 0.0,
    "losses": 1e-5,
    "gradients": 1e-4,
    "post-processing": 1e-5,
}
"""Absolute for activations, outputs and scores; of losses and gradients relative; of boxes in pixels relative to the
image; of matches the share that differs."""
NOISE = 1e-4
"""Gradients of smaller norms are rounding."""
_SMALL = 1e-2
"""Norms below it are sums that cancel: their difference counts as if they were as large, since processors round differently."""
_NOT_COMPARED = re.compile(
    r"(in|tgt\d+|cost)\..*|(post\.)?orig_sizes|subject_category_id|loss\..*_error(_\d+)?"
    r"|(train\.)?mc\.(ho_query_embed|key_padding_mask|attn_mask)|step\.(names|delta_norm)"
)
"""Inputs, intermediate results in a layout that only the authors' code has, figures for logs, an optimiser's step."""


@dataclass(frozen=True)
class Difference:
    """The largest difference of a group of quantities."""

    part: str
    group: str
    compared: int
    """How many quantities."""
    largest: float
    where: str
    """The quantity that differs most."""

    @property
    def tolerance(self) -> float:
        """What the largest difference may be."""
        return TOLERANCES[self.group]

    @property
    def holds(self) -> bool:
        """Whether the difference is within the tolerance."""
        return self.largest <= self.tolerance


def compare(part: str, recorded: Arrays, measured: Arrays) -> list[Difference]:
    """The largest difference of each group; infinite where something recorded was not measured."""
    by_group: dict[str, list[tuple[float, str]]] = {}
    for group, key, difference in _differences(recorded, measured):
        by_group.setdefault(group, []).append((difference, key))
    return [
        Difference(part, group, len(by_group[group]), *max(by_group[group]))
        for group in TOLERANCES
        if group in by_group
    ]


def _differences(recorded: Arrays, measured: Arrays) -> Iterator[tuple[str, str, float]]:
    """(group, key, difference) of everything that is compared."""
    norms = dict(zip(recorded.get("grad.names", ()), recorded.get("grad.norms", ()), strict=True))
    for key, expected in recorded.items():
        if norms.get(key.removeprefix("gradfull."), np.inf) <= NOISE:
            continue
        if _NOT_COMPARED.fullmatch(key) or key.startswith("grad."):
            continue
        group = _group(key)
        if key not in measured:
            yield group, f"{key} (not measured)", np.inf
        elif group in ("losses", "gradients"):
            yield group, key, _relative(measured[key], expected)
        else:
            scale = _longest_side(key, recorded) if key.endswith(".boxes") else 1.0
            yield group, key, _largest(measured[key], expected) / scale
    if "grad.names" in recorded:
        yield from _gradient_norms(recorded, measured)


def _gradient_norms(recorded: Arrays, measured: Arrays) -> Iterator[tuple[str, str, float]]:
    found = dict(zip(measured["grad.names"].tolist(), measured["grad.norms"].tolist(), strict=True))
    for name, norm in zip(recorded["grad.names"].tolist(), recorded["grad.norms"].tolist(), strict=True):
        if name not in found:
            yield "gradients", f"{name} (not measured)", np.inf
        elif norm > NOISE:
            yield "gradients", f"norm of {name}", abs(found[name] - norm) / max(norm, _SMALL)
    for name in recorded["grad.none_names"].tolist():
        yield "gradients", f"no gradient of {name}", found.get(name, 0.0)


def _group(key: str) -> str:
    if key.startswith(("act.", "mc.")):
        return "activations"
    if key.startswith(("out.", "train.out.")):
        return "outputs"
    if key.startswith("match."):
        return "matches"
    if key.startswith("loss"):
        return "losses"
    return "gradients" if key.startswith(("gradfull.", "step.")) else "post-processing"


def _longest_side(key: str, recorded: Arrays) -> float:
    """Of the image that boxes are of, in pixels."""
    sizes = recorded["post.orig_sizes"] if "post.orig_sizes" in recorded else recorded["orig_sizes"]
    return float(sizes[int(key.split(".")[-2])].max())


def _largest(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference of an element; of whole numbers and truth values 1 where any differs.

    Where the recorded is not a number, as the authors' tagger is about images without pairs, ours may be anything.
    """
    if found.shape != expected.shape:
        return np.inf
    if expected.dtype.kind != "f":
        return float((found != expected).any())
    difference = np.abs(found.astype(np.float64) - expected)[~np.isnan(expected)].max(initial=0.0)
    return float(np.inf if np.isnan(difference) else difference)


def _relative(found: np.ndarray, expected: np.ndarray) -> float:
    """Of the norms of the difference and of what is expected."""
    if found.shape != expected.shape:
        return np.inf
    size = float(np.linalg.norm(expected))
    difference = float(np.linalg.norm(found.astype(np.float64) - expected))
    return np.inf if np.isnan(difference) else difference / (size or 1.0)
