"""Draws the curves of `benchmarks/miniature.py`: a panel per claim and measure, means with deviations and single seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

PANELS = (
    ("fusion", "loss", "Training loss, by fusion"),
    ("fusion", "zero_shot_map", "Zero-shot mAP, by fusion"),
    ("amount", "zero_shot_map", "Zero-shot mAP, by amount of pseudo-labels"),
    ("source", "zero_shot_map", "Zero-shot mAP, by source of labels"),
)
COLUMNS = 2
# Drawn at twice the size, for smooth lines.
SCALE = 2
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 440, 270, 48, 96, 40, 36
INK, FAINT, GRID, PAPER = "#222222", "#6d737c", "#e4e4df", "#ffffff"
COLOURS = ("#2c6bd1", "#c65f00", "#17794a")

Place = tuple[float, float]


@dataclass(frozen=True)
class Axes:
    """A panel's place on the sheet and the values that its edges stand for; the lower edge is 0."""

    left: float
    top: float
    steps: float
    highest: float

    def place(self, step: float, value: float) -> Place:
        """The place of a value on the sheet."""
        across = self.left + LEFT + (WIDTH - LEFT - RIGHT) * step / self.steps
        down = self.top + TOP + (HEIGHT - TOP - BOTTOM) * (1 - value / self.highest)
        return across, down


class Sheet:
    """A white sheet, in pixels of the finished image."""

    def __init__(self, width: int, height: int) -> None:
        self.image = Image.new("RGB", (width * SCALE, height * SCALE), PAPER)
        self._pen = ImageDraw.Draw(self.image)

    def text(self, at: Place, text: str, colour: str = INK, size: int = 12, anchor: str = "lm") -> None:
        """Text at a place, as Pillow's `anchor` says."""
        self._pen.text(_scaled(at), text, fill=colour, font=ImageFont.load_default(size * SCALE), anchor=anchor)

    def line(self, places: Sequence[Place], colour: str, width: float = 2) -> None:
        """A line through places."""
        self._pen.line([_scaled(place) for place in places], fill=colour, width=round(width * SCALE), joint="curve")

    def dot(self, at: Place, colour: str, radius: float) -> None:
        """A filled circle."""
        x, y = _scaled(at)
        r = radius * SCALE
        self._pen.ellipse((x - r, y - r, x + r, y + r), fill=colour)

    def save(self, path: Path) -> None:
        """As a PNG of few colours."""
        self.image.reduce(SCALE).quantize(64, dither=Image.Dither.NONE).save(path, optimize=True)


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Draws all panels; `result` is the benchmark's JSON."""
    rows = -(-len(PANELS) // COLUMNS)
    sheet = Sheet(COLUMNS * WIDTH, rows * HEIGHT)
    for number, (claim, measure, title) in enumerate(PANELS):
        corner = (number % COLUMNS * WIDTH, number // COLUMNS * HEIGHT)
        curves = {name: measured[measure] for name, measured in result["claims"][claim].items()}
        _panel(sheet, corner, title, result["at"], curves)
    sheet.save(path)


def _panel(sheet: Sheet, corner: Place, title: str, at: Sequence[int], curves: Mapping[str, Mapping[str, Any]]) -> None:
    highest = max(value for curve in curves.values() for seed in curve["seeds"] for value in seed)
    tick = _tick(highest)
    axes = Axes(*corner, at[-1], tick * math.ceil(highest / tick))
    sheet.text((corner[0] + LEFT, corner[1] + 18), title, size=13)
    for number in range(round(axes.highest / tick) + 1):
        y = axes.place(0, number * tick)
        sheet.line([y, axes.place(at[-1], number * tick)], GRID, 1)
        sheet.text((y[0] - 6, y[1]), f"{number * tick:g}", FAINT, 11, "rm")
    for step in at:
        x, y = axes.place(step, 0)
        sheet.text((x, y + 14), f"{step}", FAINT, 11, "mm")
    for (_, curve), colour in zip(curves.items(), COLOURS, strict=False):
        _curve(sheet, axes, at, curve, colour)
    ends = [axes.place(at[-1], curve["mean"][-1])[1] for curve in curves.values()]
    for name, y, colour in zip(curves, _apart(ends, 15), COLOURS, strict=False):
        sheet.text((axes.place(at[-1], 0)[0] + 10, y), name, colour)


def _curve(sheet: Sheet, axes: Axes, at: Sequence[int], curve: Mapping[str, Any], colour: str) -> None:
    """The mean as a line, its deviation as bars, the seeds as dots."""
    sheet.line([axes.place(step, mean) for step, mean in zip(at, curve["mean"], strict=True)], colour)
    for step, mean, deviation in zip(at, curve["mean"], curve["deviation"], strict=True):
        sheet.line([axes.place(step, max(mean - deviation, 0)), axes.place(step, mean + deviation)], colour, 1)
    for seed in curve["seeds"]:
        for step, value in zip(at, seed, strict=True):
            sheet.dot(axes.place(step, value), colour, 2.5)


def _tick(highest: float) -> float:
    """A round distance of grid lines that gives three to six of them."""
    power = 10 ** math.floor(math.log10(max(highest, 1e-6)))
    return next(power * part for part in (0.2, 0.5, 1.0, 2.0) if highest <= 6 * power * part)


def _apart(heights: Sequence[float], distance: float) -> list[float]:
    """The heights of labels, moved down until they do not overlap."""
    moved = list(heights)
    order = sorted(range(len(moved)), key=lambda place: moved[place])
    for upper, lower in pairwise(order):
        moved[lower] = max(moved[lower], moved[upper] + distance)
    return moved


def _scaled(place: Place) -> Place:
    return place[0] * SCALE, place[1] * SCALE
