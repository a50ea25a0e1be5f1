"""Lays out the scene graph of an image: boxes on a circle, kept labels as arrows between them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.review.image_detail import ImageDetail
from pipeline.review.labels import Label

SIZE = 360
"""Width and height of the drawing."""
_MAX_NODES = 14
_RADIUS = 128
_NODE = 22
"""Distance from a node's centre at which arrows begin and end."""


@dataclass(frozen=True)
class Node:
    """A box: its index, its name and the place of its centre."""

    box: int
    name: str
    x: float
    y: float


@dataclass(frozen=True)
class Edge:
    """A label as a curve from subject to object. `path` is an SVG path; the words stand at `x`, `y`."""

    label: Label
    path: str
    x: float
    y: float


@dataclass(frozen=True)
class SceneGraph:
    """The drawing. `left_out`: boxes with labels for which there was no room."""

    nodes: Sequence[Node]
    edges: Sequence[Edge]
    left_out: int
    size: int = SIZE


def scene_graph(detail: ImageDetail) -> SceneGraph:
    """Lays out the boxes of an image's labels, those of the best labels first, and all labels between them."""
    used = list(dict.fromkeys(box for label in detail.labels for box in (label.subject, label.object)))
    shown = [box for box in used if box < len(detail.boxes)][:_MAX_NODES]
    nodes = {}
    for place, box in enumerate(sorted(shown)):
        angle = 2 * math.pi * place / len(shown) - math.pi / 2
        x, y = SIZE / 2 + _RADIUS * math.cos(angle), SIZE / 2 + _RADIUS * math.sin(angle)
        nodes[box] = Node(box, f"{detail.boxes[box]['category']} {box}", round(x, 1), round(y, 1))
    edges = []
    between: dict[tuple[int, int], int] = {}
    for label in detail.labels:
        if label.subject in nodes and label.object in nodes:
            ends = label.subject, label.object
            edges.append(_edge(label, nodes[label.subject], nodes[label.object], between.get(ends, 0)))
            between[ends] = between.get(ends, 0) + 1
    return SceneGraph(tuple(nodes.values()), tuple(edges), len(used) - len(shown))


def _edge(label: Label, start: Node, end: Node, before: int) -> Edge:
    """A curve that bends the more, the more labels join the same boxes already."""
    if start.box == end.box:
        x, y = start.x, start.y - _NODE
        return Edge(label, f"M{x - 8} {y} c-24 -40 40 -40 16 0", x, y - 30)
    across, down = end.x - start.x, end.y - start.y
    length = math.hypot(across, down) or 1.0
    bend = 16 + 18 * before
    middle_x, middle_y = (start.x + end.x) / 2 - down / length * bend, (start.y + end.y) / 2 + across / length * bend
    first = _towards(start, middle_x, middle_y)
    last = _towards(end, middle_x, middle_y)
    path = f"M{first[0]:.1f} {first[1]:.1f} Q{middle_x:.1f} {middle_y:.1f} {last[0]:.1f} {last[1]:.1f}"
    # The curve passes halfway between its ends and the point that bends it.
    words_x, words_y = (first[0] + last[0]) / 4 + middle_x / 2, (first[1] + last[1]) / 4 + middle_y / 2
    return Edge(label, path, round(words_x, 1), round(words_y, 1))


def _towards(node: Node, x: float, y: float) -> tuple[float, float]:
    length = math.hypot(x - node.x, y - node.y) or 1.0
    return node.x + (x - node.x) / length * _NODE, node.y + (y - node.y) / length * _NODE
