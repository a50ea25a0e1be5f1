"""Measures how well boxes alone predict which pair is meant: `python -m benchmarks.pair_prior VRD [--vcoco FILE]`.

VRD is a file in the layout of Visual Relationship Detection's annotations, with boxes as [ymin, ymax, xmin, xmax].
V-COCO's file is a JSON object with `annotations` of boxes_h, boxes_o (corners), actions and objects. For predicates
between two categories with more pairs in an image than annotated ones, measures the prior's share on annotated pairs
and how often the likeliest pair is annotated. Weights are fitted on every other image and evaluated on the rest.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import minimize

from tagger.box import Box
from tagger.candidates.grounding import DISTANCE, GAP, OBJECT_SIZE, OVERLAP, SUBJECT_SIZE, features

NAMES = ("subject size", "object size", "overlap", "gap", "distance")
SHIPPED = np.array([SUBJECT_SIZE, OBJECT_SIZE, OVERLAP, GAP, DISTANCE])

Relations = Iterable[tuple[Box, str, Box]]


class Choice(NamedTuple):
    """Alternatives of a mention (a predicate between two categories): features (pairs × 5), and the annotated pairs."""

    features: np.ndarray[Any, Any]
    meant: np.ndarray[Any, Any]


def vrd(path: Path) -> Iterator[Relations]:
    """Yields the relations of each image."""

    def box(end: dict[str, Any]) -> Box:
        top, bottom, left, right = end["bbox"]
        return Box(str(end["category"]), left, top, right - left, bottom - top)

    for relations in json.loads(path.read_bytes()).values():
        yield [(box(r["subject"]), str(r["predicate"]), box(r["object"])) for r in relations]


def vcoco(path: Path) -> Iterator[Relations]:
    """Yields the interactions of each image. The file has only boxes of interactions."""

    def box(category: str, corners: Sequence[float]) -> Box:
        left, top, right, bottom = (round(value, 1) for value in corners)
        return Box(category, left, top, right - left, bottom - top)

    for row in json.loads(path.read_bytes())["annotations"]:
        ends = zip(row["boxes_h"], row["actions"], row["boxes_o"], row["objects"], strict=True)
        yield [(box("1", person), str(action), box(str(kind), thing)) for person, action, thing, kind in ends]


def choices(relations: Relations) -> Iterator[Choice]:
    """Yields the mentions of one image that leave a choice."""
    relations = list(relations)
    boxes = list(dict.fromkeys(end for subject, _, object_ in relations for end in (subject, object_)))
    stated: dict[tuple[str, str, str], set[tuple[Box, Box]]] = {}
    for subject, predicate, object_ in relations:
        stated.setdefault((subject.category, predicate, object_.category), set()).add((subject, object_))
    for (subject_category, _, object_category), meant in stated.items():
        pairs = [
            (one, other)
            for one in boxes
            for other in boxes
            if one is not other and (one.category, other.category) == (subject_category, object_category)
        ]
        if len(pairs) > len(meant):
            yield Choice(
                np.array([features(*pair) for pair in pairs]),
                np.array([pair in meant for pair in pairs]),
            )


def fitted(found: Sequence[Choice]) -> np.ndarray[Any, Any]:
    """Fits the weights by maximum likelihood of the annotated pairs."""

    def loss(weights: np.ndarray[Any, Any]) -> tuple[float, np.ndarray[Any, Any]]:
        total, slope = 1e-3 * float(weights @ weights), 2e-3 * weights
        for values, meant in found:
            share = _softmax(values @ weights)
            on_meant = share[meant].sum() + 1e-9
            total -= float(np.log(on_meant)) / len(found)
            slope = slope + (values.T @ share - values[meant].T @ share[meant] / on_meant) / len(found)
        return total, slope

    weights: np.ndarray[Any, Any] = minimize(loss, np.zeros(len(NAMES)), jac=True, method="L-BFGS-B").x
    return weights


def judged(found: Sequence[Choice], weights: np.ndarray[Any, Any]) -> dict[str, float]:
    shares = [_softmax(values @ weights) for values, _ in found]
    on_meant = [share[choice.meant].sum() for share, choice in zip(shares, found, strict=True)]
    first = [choice.meant[share.argmax()] for share, choice in zip(shares, found, strict=True)]
    return {"share on annotated": round(float(np.mean(on_meant)), 3), "likeliest is": round(float(np.mean(first)), 3)}


def _softmax(scores: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    raised: np.ndarray[Any, Any] = np.exp(scores - scores.max())
    return raised / raised.sum()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("vrd", type=Path, nargs="?")
    parser.add_argument("--vcoco", type=Path)
    given = parser.parse_args()
    if given.vrd is None:
        print("benchmarks.pair_prior: nothing measured; name a file of VRD's annotations")
        return
    sets = {"VRD": list(vrd(given.vrd))} | ({"V-COCO": list(vcoco(given.vcoco))} if given.vcoco else {})
    halves = {
        name: [[choice for image in images[start::2] for choice in choices(image)] for start in (0, 1)]
        for name, images in sets.items()
    }
    weights = fitted([choice for first, _ in halves.values() for choice in first])
    print("fitted", ", ".join(f"{name} {weight:.2f}" for name, weight in zip(NAMES, weights, strict=True)))
    rows: dict[str, Any] = {}
    for name, (_, held_out) in halves.items():
        uniform = round(float(np.mean([choice.meant.mean() for choice in held_out])), 3)
        rows[name] = {
            "mentions": len(held_out), "uniform": uniform,
            "shipped": judged(held_out, SHIPPED), "fitted": judged(held_out, weights),
        }  # fmt: skip
        print(f"{name:8}{len(held_out)} mentions with a choice: share on annotated pairs {uniform} (uniform), "
              f"{rows[name]['shipped']['share on annotated']} (prior); likeliest pair annotated in "
              f"{rows[name]['shipped']['likeliest is']}")  # fmt: skip
    print(
        json.dumps(
            {"machine": platform.processor() or platform.machine(), "weights": weights.round(3).tolist(), **rows}
        )
    )


if __name__ == "__main__":
    main()
