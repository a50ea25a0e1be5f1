"""Draws samples side by side as one image, each with its boxes and relations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from pipeline.interop.shard_samples import SeenLabels
from pipeline.report.drawing import COLOURS, IDLE, INK, PAPER, Line, Point, Rect, along, arrow_head, first_free
from pipeline.report.formatting import sanitise
from pipeline.training.sample import SampleRelation, TrainingSample
from storage.atomic import atomic_file
from storage.errors import translate_os_errors

CELL, PICTURE = 560, 420
"""Width of a cell, and the greatest height of its image, in pixels."""
MARGIN, LINE = 12, 20
ARROWS = 6
"""Relations that are drawn and listed per sample unless a caller says otherwise: the most confident."""


def save_sheet(cells: Sequence[Image.Image], out: Path) -> None:
    """Puts cells side by side, row by row, and saves them as one PNG. Raises as `translate_os_errors` does."""
    columns = min(len(cells), 2 if len(cells) <= 4 else 3)
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    heights = [max(cell.height for cell in row) for row in rows]
    sheet = Image.new("RGB", (columns * (CELL + MARGIN) + MARGIN, sum(heights) + MARGIN * (len(rows) + 1)), "#dddddd")
    top = MARGIN
    for row, height in zip(rows, heights, strict=True):
        for number, cell in enumerate(row):
            framed = Image.new("RGB", (CELL, height), PAPER)
            framed.paste(cell, (0, 0))
            sheet.paste(framed, (MARGIN + number * (CELL + MARGIN), top))
        top += height + MARGIN
    with translate_os_errors(f"writing {out}"), atomic_file(out) as aside:
        sheet.save(aside, "PNG")


Labels = SeenLabels | TrainingSample
Relations = Sequence[SampleRelation]


def labelled_cell(title: str, image: Image.Image, labels: Labels | None, arrows: int = ARROWS) -> Image.Image:
    """One sample: its key, its image with boxes and arrows, and its `arrows` best relations in words."""
    scale = min(CELL / image.width, PICTURE / image.height)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    shown = () if labels is None else _surest(labels.relations, arrows)
    lines = _lines(labels, shown) if arrows else []
    cell = Image.new("RGB", (CELL, LINE + 8 + size[1] + 8 + LINE * len(lines)), PAPER)
    draw = ImageDraw.Draw(cell)
    draw.text((8, 4), title, INK, _font(15))
    picture = image.resize(size, Image.Resampling.LANCZOS)
    if labels is not None:
        # Boxes refer to pixels of the size that the labels state, which a reduced image no longer has.
        _draw_labels(picture, labels, size[0] / (labels.width or image.width), shown)
    cell.paste(picture, ((CELL - size[0]) // 2, LINE + 8))
    for number, line in enumerate(lines):
        draw.text((8, LINE + 14 + size[1] + LINE * number), line, INK, _font(14))
    return cell


def _draw_labels(picture: Image.Image, labels: Labels, scale: float, arrows: Relations) -> None:
    draw = ImageDraw.Draw(picture)
    used = {index for arrow in arrows for index in (arrow.subject, arrow.object)}
    boxes = [Rect(b.x, b.y, b.w, b.h).scaled(scale).within(*picture.size) for b in labels.boxes]
    lines: list[Line] = [(*boxes[arrow.subject].centre, *boxes[arrow.object].centre) for arrow in arrows]
    taken: list[Rect] = []
    for index, box in enumerate(boxes):
        if index not in used:
            draw.rectangle(box.corners, outline=IDLE)
    for index in sorted(used):
        draw.rectangle(boxes[index].corners, outline=_colour(index), width=3)
    for arrow, line in zip(arrows, lines, strict=True):
        _arrow(draw, line, _colour(arrow.subject))
    for index in sorted(used):
        box, name = boxes[index], sanitise(labels.boxes[index].category, 30)
        _tag(draw, f"{index} {name}", (box.x, box.y), _colour(index), taken)
    for arrow, line in zip(arrows, lines, strict=True):
        _tag_line(draw, sanitise(arrow.predicate, 30), line, _colour(arrow.subject), taken)


def _lines(labels: Labels | None, shown: Relations) -> list[str]:
    if labels is None:
        return ["no labels in this project's format"]
    if not labels.relations:
        return [f"{len(labels.boxes)} boxes, no relations"]
    lines = []
    for found in shown:
        ends = [f"{end} {sanitise(labels.boxes[end].category, 24)}" for end in (found.subject, found.object)]
        lines.append(f"[{ends[0]}]  {sanitise(found.predicate, 30)}  [{ends[1]}]   {found.confidence:.2f}")
    if len(labels.relations) > len(shown):
        lines.append(f"and {len(labels.relations) - len(shown)} more relations; {len(labels.boxes)} boxes")
    return lines


def _surest(relations: Relations, most: int) -> Relations:
    """The most confident relations, in stored order."""
    ranked = sorted(range(len(relations)), key=lambda place: -relations[place].confidence)
    return [relations[place] for place in sorted(ranked[:most])]


def _arrow(draw: ImageDraw.ImageDraw, line: Line, colour: str) -> None:
    for width, ink in ((5, PAPER), (3, colour)):
        draw.line(line, ink, width)
    draw.polygon(arrow_head(line, 14), colour, PAPER)
    draw.ellipse((line[0] - 4, line[1] - 4, line[0] + 4, line[1] + 4), colour, PAPER)


def _tag_line(draw: ImageDraw.ImageDraw, text: str, line: Line, colour: str, taken: list[Rect]) -> None:
    """Writes on an arrow where no other text is yet, if there is room."""
    left, top, right, bottom = draw.textbbox((0, 0), text, _font(14))
    width, height = right - left, bottom - top
    middles = (along(line, share) for share in _SHARES)
    places = [Rect(x - width / 2, y - height / 2, width, height) for x, y in middles]
    place = first_free(places, taken) or places[0]
    _tag(draw, text, (place.x, place.y), colour, taken)


_SHARES = (0.5, 0.4, 0.6, 0.3, 0.7, 0.2, 0.8)


def _tag(draw: ImageDraw.ImageDraw, text: str, corner: Point, colour: str, taken: list[Rect]) -> None:
    """Writes white text on a coloured background, inside the image and clear of earlier text."""
    image_width, image_height = draw.im.size
    left, top, right, bottom = draw.textbbox((0, 0), text, _font(14))
    ground = Rect(*corner, right - left + 8, bottom - top + 6).moved_into(image_width, image_height)
    shifted = (
        ground._replace(y=ground.y + step * (ground.h + 1))
        for distance in range(image_height // int(ground.h))
        for step in (distance, -distance)
    )
    ground = first_free((each for each in shifted if 0 <= each.y <= image_height - each.h), taken) or ground
    draw.rectangle(ground.corners, colour)
    draw.text((ground.x + 4 - left, ground.y + 3 - top), text, PAPER, _font(14))
    taken.append(ground)


def _colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
