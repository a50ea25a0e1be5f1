"""Draws docs/tagger_real.png, labels of real images, boxes only: `python docs/tagger_figure.py STORE`.

STORE holds a run of `recipes/coco_sample.toml`. Images of the set have licences of their own and are left out.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from pipeline.labels.kept_labels import ChoiceSettings
from pipeline.report.samples import SampleImage, ShownRelation, read_samples
from storage.open_store import existing_store
from storage.runs import find_run

PICTURE = Path(__file__).with_name("tagger_real.png")
RUN, DATASET, IMAGES = "coco_sample", "coco", (203629, 177489, 341921)
ROWS = 8

# Drawn at twice the size, for smooth lines.
SCALE = 2
PANEL, GAP, HEIGHT, LINE = 316, 20, 236, 21
SMALL = 26
"""Boxes as low as this have their names below them."""
INK, FAINT, PAPER, GROUND, WRONG = "#222222", "#8a8a8a", "#ffffff", "#f1f1ee", "#b4361f"
COLOURS = ("#1f6fb4", "#1f8a4c", "#8a4fa8", "#b0741a", "#2a8c8c", "#a83f6b")

Place = tuple[float, float]


class Sheet:
    """A white sheet, in pixels of the finished image."""

    def __init__(self, width: int, height: int) -> None:
        self.image = Image.new("RGB", (width * SCALE, height * SCALE), PAPER)
        self._pen = ImageDraw.Draw(self.image)

    def text(self, at: Place, text: str, colour: str = INK, size: int = 13, anchor: str = "ls") -> None:
        """Text at the left end of its base line, or as Pillow's `anchor` says."""
        self._pen.text(_scaled(*at), text, fill=colour, font=ImageFont.load_default(size * SCALE), anchor=anchor)

    def plate(self, at: Place, text: str, colour: str) -> None:
        """Text on white, its upper left corner at a place."""
        font = ImageFont.load_default(12 * SCALE)
        box = self._pen.textbbox(_scaled(*at), text, font=font, anchor="lt")
        self._pen.rectangle((box[0] - 4, box[1] - 4, box[2] + 4, box[3] + 4), fill=PAPER)
        self._pen.text(_scaled(*at), text, fill=colour, font=font, anchor="lt")

    def frame(self, corners: tuple[float, float, float, float], colour: str | None, fill: str | None = None) -> None:
        """A rectangle."""
        self._pen.rectangle(_scaled(*corners), outline=colour, fill=fill, width=2 * SCALE)

    def save(self, path: Path) -> None:
        """As a PNG of few colours."""
        self.image.reduce(SCALE).quantize(64, dither=Image.Dither.NONE).save(path, optimize=True)


def draw(store: Path) -> Sheet:
    """The whole image."""
    run = find_run(existing_store(store), RUN)
    every = {sample.row["image_id"]: sample for sample in read_samples(run, [DATASET], ChoiceSettings())}
    sheet = Sheet(len(IMAGES) * (PANEL + GAP) - GAP, HEIGHT + 44 + ROWS * LINE)
    for place, image_id in enumerate(IMAGES):
        draw_panel(sheet, every[image_id], place * (PANEL + GAP))
    return sheet


def draw_panel(sheet: Sheet, sample: SampleImage, left: float) -> None:
    """Boxes on blank ground, each in its colour; below, labels by falling probability."""
    zoom = min(PANEL / sample.row["width"], HEIGHT / sample.row["height"])
    colours = {box.name: COLOURS[place % len(COLOURS)] for place, box in enumerate(sample.boxes)}
    size = sample.row["width"] * zoom, sample.row["height"] * zoom
    sheet.frame((left, 0, left + size[0], size[1]), None, GROUND)
    shown = [box for box in sample.boxes if box.named]
    for box in shown:
        x, y = left + box.x * zoom, box.y * zoom
        sheet.frame((x, y, x + box.w * zoom, y + box.h * zoom), colours[box.name])
    for box in shown:
        below = 6 if box.h * zoom > SMALL else box.h * zoom + 8
        sheet.plate((left + box.x * zoom + 6, box.y * zoom + below), box.name, colours[box.name])
    top = HEIGHT + 22
    sheet.text((left + PANEL - 62, top), "probability", FAINT, 12, "rs")
    sheet.text((left + PANEL, top), "given", FAINT, 12, "rs")
    for row, label in enumerate([*sample.kept, *sample.dropped][:ROWS]):
        draw_label(sheet, label, label in sample.kept, (left, top + (row + 1) * LINE))


def draw_label(sheet: Sheet, label: ShownRelation, kept: bool, at: Place) -> None:
    """A row: faint where it is not kept; whether the set gives the relation too."""
    colour = INK if kept else FAINT
    sheet.text(at, f"{label.subject}  {label.predicate}  {label.object}", colour)
    probability = "–" if label.confidence is None else f"{label.confidence:.2f}"
    sheet.text((at[0] + PANEL - 62, at[1]), probability, colour, anchor="rs")
    answer, tint = ("yes", colour) if label.right else ("no", WRONG if kept else FAINT)
    sheet.text((at[0] + PANEL, at[1]), answer, tint, anchor="rs")


def _scaled(*values: float) -> tuple[float, ...]:
    return tuple(value * SCALE for value in values)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python docs/tagger_figure.py STORE")
    draw(Path(sys.argv[1])).save(PICTURE)
