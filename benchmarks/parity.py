"""Compares our networks with recordings: `python -m benchmarks.parity FOLDER`. Exits with 1 beyond a tolerance.

FOLDER holds recordings in the layout that `recorded/recording.py` describes. The default is our own recordings. A row
has the largest difference of a group of quantities, and as its peer the tolerance.
"""

from __future__ import annotations

import re
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from benchmarks.harness import Row, parser, run
from benchmarks.recorded.measure import measure
from benchmarks.recorded.recording import Arrays, Recording, recordings_in

OWN = Path(__file__).parents[1] / "models" / "recorded"
TOLERANCES = {
    "activations": 5e-5, "outputs": 1e-5, "matches": 0.0, "losses": 1e-5, "gradients": 1e-4, "post-processing": 1e-5,
}  # fmt: skip
"""Maximum differences: absolute for activations, outputs and scores, relative for losses and gradients, relative to the
image for boxes in pixels; matches must be equal."""
NOISE = 1e-4
"""Gradients with smaller norms are rounding errors and not compared."""
_SMALL = 1e-2
"""Minimum norm to divide by: smaller norms come from sums that cancel, which processors round differently."""
_NOT_COMPARED = re.compile(
    r"(in|tgt\d+|cost)\..*|(post\.)?orig_sizes|subject_category_id|loss\..*_error(_\d+)?"
    r"|(train\.)?mc\.(ho_query_embed|key_padding_mask|attn_mask)|step\.(names|delta_norm)"
)
"""Keys not compared: inputs, intermediates in a layout of the authors' code only, logged figures, optimiser steps."""
LAST_LAYER = "act.text.last_hidden_state"
"""The text encoder's last layer, which our network computes for the first token alone."""
Largest = dict[str, tuple[float, str]]
"""Group → its largest difference, and the quantity that has it."""


def compare(recorded: Arrays, measured: Arrays) -> Largest:
    """Returns the largest difference of each group; infinite if a recorded quantity was not measured."""
    by_group: dict[str, list[tuple[float, str]]] = {}
    for group, key, difference in _differences(recorded, measured):
        by_group.setdefault(group, []).append((difference, key))
    return {group: max(by_group[group]) for group in TOLERANCES if group in by_group}


def beyond(found: Largest) -> set[str]:
    """Returns the groups that differ by more than their tolerance."""
    return {group for group, (largest, _) in found.items() if not largest <= TOLERANCES[group]}


def _differences(recorded: Arrays, measured: Arrays) -> Iterator[tuple[str, str, float]]:
    """Yields (group, key, difference) of each compared quantity."""
    norms = dict(zip(recorded.get("grad.names", ()), recorded.get("grad.norms", ()), strict=True))
    for key, expected in recorded.items():
        if norms.get(key.removeprefix("gradfull."), np.inf) <= NOISE:
            continue
        if _NOT_COMPARED.fullmatch(key) or key.startswith("grad."):
            continue
        if key == LAST_LAYER:
            expected = expected[:, :1]
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
    """Returns the longest side, in pixels, of the image of the boxes under `key`."""
    sizes = recorded["post.orig_sizes"] if "post.orig_sizes" in recorded else recorded["orig_sizes"]
    return float(sizes[int(key.split(".")[-2])].max())


def _largest(found: np.ndarray, expected: np.ndarray) -> float:
    """Returns the largest difference of an element; for integers and booleans, 1 if any element differs.

    Ignores elements whose recorded value is NaN, which the authors' tagger gives for images without pairs.
    """
    if found.shape != expected.shape:
        return np.inf
    if expected.dtype.kind != "f":
        return float((found != expected).any())
    difference = np.abs(found.astype(np.float64) - expected)[~np.isnan(expected)].max(initial=0.0)
    return float(np.inf if np.isnan(difference) else difference)


def _relative(found: np.ndarray, expected: np.ndarray) -> float:
    """Returns the norm of the difference divided by the norm of the expected values."""
    if found.shape != expected.shape:
        return np.inf
    size = float(np.linalg.norm(expected))
    difference = float(np.linalg.norm(found.astype(np.float64) - expected))
    return np.inf if np.isnan(difference) else difference / (size or 1.0)


def differences(recording: Recording) -> dict[str, Largest]:
    """Returns the differences in each recorded part."""
    given = {part: recording.arrays(part) for part in recording.parts()}
    return {part: compare(arrays, measure(recording, part, arrays)) for part, arrays in given.items()}


def measure_all(given: Namespace) -> Iterator[Row]:
    for name in recordings_in(given.folder):
        for part, found in differences(Recording(given.folder, name)).items():
            for group, (largest, where) in found.items():
                note = f"{'BEYOND the tolerance: ' if group in beyond(found) else ''}{where}"
                yield Row(f"{name}, {part}: {group}", "", largest, TOLERANCES[group], note)


def main() -> int:
    """Returns 0 if all differences are within their tolerances, else 1."""
    torch.set_num_threads(1)  # for the same order of additions on every machine
    options = parser(__doc__)
    options.add_argument("folder", type=Path, nargs="?", default=OWN)
    rows = run(options, measure_all)
    return int(not all(row.ours <= row.peer for row in rows))


if __name__ == "__main__":
    sys.exit(main())
