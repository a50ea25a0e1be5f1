"""Draws samples side by side as one image, each with its boxes and relations."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from pipeline.interop.shard_samples import SeenLabels
from pipeline.report.formatting import sanitise

CELL_WIDTH, IMAGE_HEIGHT = 560, 420
"""Width of a cell, and the greatest height of its image, in pixels."""
MARGIN, LINE = 12, 20
ARROWS = 6
"""Relations that are drawn and listed per sample: the most confident."""
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8c6d00", "#5b3fb5", "#b3002d", "#00707a")
"""Dark enough for white text; neighbours differ for colour-blind readers too (after Okabe and Ito)."""
_IDLE = "#9a9a9a"
_INK, _PAPER = "#1a1a1a", "#ffffff"
_Box = tuple[float, float, float, float]


def contact_sheet(cells: Sequence[Image.Image]) -> Image.Image:
    """Puts cells side by side, row by row."""
    columns = min(len(cells), 2 if len(cells) <= 4 else 3)
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    heights = [max(cell.height for cell in row) for row in rows]
    sheet = Image.new(
        "RGB", (columns * (CELL_WIDTH + MARGIN) + MARGIN, sum(heights) + MARGIN * (len(rows) + 1)), "#dddddd"
    )
    top = MARGIN
    for row, height in zip(rows, heights, strict=True):
        for number, cell in enumerate(row):
            framed = Image.new("RGB", (CELL_WIDTH, height), _PAPER)
            framed.paste(cell, (0, 0))
            sheet.paste(framed, (MARGIN + number * (CELL_WIDTH + MARGIN), top))
        top += height + MARGIN
    return sheet


def labelled_cell(title: str, image: Image.Image, labels: SeenLabels | None) -> Image.Image:
    """One sample: its key, its image with boxes and arrows, and its relations in words."""
    scale = min(CELL_WIDTH / image.width, IMAGE_HEIGHT / image.height)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    lines = _lines(labels)
    cell = Image.new("RGB", (CELL_WIDTH, LINE + 8 + size[1] + 8 + LINE * len(lines)), _PAPER)
    draw = ImageDraw.Draw(cell)
    draw.text((8, 4), title, _INK, _font(15))
    resized = image.resize(size, Image.Resampling.LANCZOS)
    if labels is not None:
        # Boxes refer to pixels of the size that the labels state, which a reduced image no longer has.
        _draw_labels(resized, labels, size[0] / (labels.width or image.width))
    cell.paste(resized, ((CELL_WIDTH - size[0]) // 2, LINE + 8))
    for number, line in enumerate(lines):
        draw.text((8, LINE + 14 + size[1] + LINE * number), line, _INK, _font(14))
    return cell


def _draw_labels(image: Image.Image, labels: SeenLabels, scale: float) -> None:
    draw = ImageDraw.Draw(image)
    shown = _most_confident(labels)
    used = {
        index for relation in shown for index in (labels.relations[relation].subject, labels.relations[relation].object)
    }
    boxes = [
        _inside((b.x * scale, b.y * scale, (b.x + b.w) * scale, (b.y + b.h) * scale), image.size) for b in labels.boxes
    ]
    taken: list[_Box] = []
    for index, box in enumerate(boxes):
        if index not in used:
            draw.rectangle(box, outline=_IDLE)
    for index in sorted(used):
        draw.rectangle(boxes[index], outline=_colour(index), width=3)
    for relation in shown:
        subject, object_ = labels.relations[relation].subject, labels.relations[relation].object
        _arrow(draw, _centre(boxes[subject]), _centre(boxes[object_]), _colour(subject))
    for index in sorted(used):
        _tag(draw, f"{index} {sanitise(labels.boxes[index].category, 30)}", boxes[index][:2], _colour(index), taken)
    for relation in shown:
        one = labels.relations[relation]
        start, end = _centre(boxes[one.subject]), _centre(boxes[one.object])
        _tag_line(draw, sanitise(one.predicate, 30), start, end, _colour(one.subject), taken)


def _lines(labels: SeenLabels | None) -> list[str]:
    if labels is None:
        return ["no labels of this project's form"]
    if not labels.relations:
        return [f"{len(labels.boxes)} boxes, no relations"]
    shown = _most_confident(labels)
    lines = []
    for relation in shown:
        one = labels.relations[relation]
        ends = [f"{end} {sanitise(labels.boxes[end].category, 24)}" for end in (one.subject, one.object)]
        score = "" if one.confidence is None else f"   {one.confidence:.2f}"
        lines.append(f"[{ends[0]}]  {sanitise(one.predicate, 30)}  [{ends[1]}]{score}")
    if len(labels.relations) > len(shown):
        lines.append(f"and {len(labels.relations) - len(shown)} more relations; {len(labels.boxes)} boxes")
    return lines


def _most_confident(labels: SeenLabels) -> list[int]:
    ranked = sorted(range(len(labels.relations)), key=lambda place: -(labels.relations[place].confidence or 0.0))
    return sorted(ranked[:ARROWS])


def _arrow(draw: ImageDraw.ImageDraw, start: tuple[float, float], end: tuple[float, float], colour: str) -> None:
    for width, ink in ((5, _PAPER), (3, colour)):
        draw.line((*start, *end), ink, width)
    angle = math.atan2(end[1] - start[1], end[0] - start[0])
    wings = [(end[0] - 14 * math.cos(angle + turn), end[1] - 14 * math.sin(angle + turn)) for turn in (0.45, -0.45)]
    draw.polygon([end, *wings], colour, _PAPER)
    draw.ellipse((start[0] - 4, start[1] - 4, start[0] + 4, start[1] + 4), colour, _PAPER)


def _tag_line(
    draw: ImageDraw.ImageDraw,
    text: str,
    start: tuple[float, float],
    end: tuple[float, float],
    colour: str,
    taken: list[_Box],
) -> None:
    """Writes on an arrow, where no other text is yet, if there is such a place."""
    left, top, right, bottom = draw.textbbox((0, 0), text, _font(14))
    width, height = right - left, bottom - top
    places = [(start[0] + (end[0] - start[0]) * part, start[1] + (end[1] - start[1]) * part) for part in _PARTS]
    corners = [(x - width / 2, y - height / 2) for x, y in places]
    free = next(
        (corner for corner in corners if not _is_taken((*corner, corner[0] + width, corner[1] + height), taken)), None
    )
    _tag(draw, text, free or corners[0], colour, taken)


_PARTS = (0.5, 0.4, 0.6, 0.3, 0.7, 0.2, 0.8)


def _tag(draw: ImageDraw.ImageDraw, text: str, corner: tuple[float, float], colour: str, taken: list[_Box]) -> None:
    """Writes white on a coloured ground, moved into the image and away from text that is there already."""
    image_width, image_height = draw.im.size
    left, top, right, bottom = draw.textbbox((0, 0), text, _font(14))
    width, height = right - left + 8, bottom - top + 6
    x, y = min(max(corner[0], 0), max(0, image_width - width)), min(max(corner[1], 0), max(0, image_height - height))
    free = (
        y + step * (height + 1) for distance in range(image_height // int(height)) for step in (distance, -distance)
    )
    inside = (at for at in free if 0 <= at <= image_height - height)
    y = next((at for at in inside if not _is_taken((x, at, x + width, at + height), taken)), y)
    draw.rectangle((x, y, x + width, y + height), colour)
    draw.text((x + 4 - left, y + 3 - top), text, _PAPER, _font(14))
    taken.append((x, y, x + width, y + height))


def _is_taken(box: _Box, taken: Sequence[_Box]) -> bool:
    return any(box[0] < t[2] and t[0] < box[2] and box[1] < t[3] and t[1] < box[3] for t in taken)


def _inside(box: _Box, size: tuple[int, int]) -> _Box:
    """The part of a box that lies in the image."""
    x, right = (min(max(edge, 0.0), size[0] - 1.0) for edge in (box[0], box[2]))
    y, bottom = (min(max(edge, 0.0), size[1] - 1.0) for edge in (box[1], box[3]))
    return min(x, right), min(y, bottom), max(x, right), max(y, bottom)


def _centre(box: _Box) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def _colour(index: int) -> str:
    return _COLOURS[index % len(_COLOURS)]


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
