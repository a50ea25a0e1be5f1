"""Draws docs/triplets.png, real parses and priors on a made scene: `python docs/triplets_figure.py`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from spacy.tokens import Doc

from scenes.scene import Scene, render
from scenes.world import make_scene
from tagger.box import Box
from tagger.candidates.grounding import ground
from tagger.pair import Pair
from tagger.parsing.parser import load_parser, parse_captions, trees
from tagger.triplet import Triplet

PICTURE = Path(__file__).with_name("triplets.png")

# One that has a passive, a relative clause, a possessive and two nouns that share a verb; one of the scene.
READ = "a kite that two boys are flying and a dog held by a woman in a red coat"
GROUNDED = "a man riding a horse and a woman standing next to two cows"
SCENE = (3, 388)

# Drawn at twice the size, for smooth lines.
SCALE = 2
WIDTH, MARGIN = 1000, 20
INK, FAINT, PAPER = "#222222", "#999999", "#ffffff"
SUBJECT, PREDICATE, OBJECT = "#1f6fb4", "#b4361f", "#1f8a4c"
COLOURS = 128

# Where on a pair's line its number may stand.
SHARES = (0.5, 0.6, 0.4, 0.7, 0.3, 0.8, 0.2)

Place = tuple[float, float]


class Sheet:
    """A white sheet, in pixels of the finished image."""

    def __init__(self, width: int, height: int) -> None:
        self.image = Image.new("RGB", (width * SCALE, height * SCALE), PAPER)
        self._pen = ImageDraw.Draw(self.image)

    def text(self, at: Place, text: str, colour: str = INK, size: int = 15, anchor: str = "ls") -> None:
        """Text at the left end of its base line, or as Pillow's `anchor` says."""
        self._pen.text(_scaled(at), text, colour, _font(size), anchor=anchor, stroke_width=2 * SCALE, stroke_fill=PAPER)

    def tag(self, at: Place, text: str, colour: str) -> None:
        """White text on a plate of a colour, its middle at a place."""
        box = self._pen.textbbox(_scaled(at), text, font=_font(13), anchor="mm")
        self._pen.rectangle((box[0] - 5, box[1] - 4, box[2] + 5, box[3] + 4), fill=colour)
        self._pen.text(_scaled(at), text, fill=PAPER, font=_font(13), anchor="mm")

    def line(self, start: Place, end: Place, colour: str, width: float) -> None:
        """A straight line."""
        self._pen.line([_scaled(start), _scaled(end)], fill=colour, width=max(round(width * SCALE), 1))

    def box(self, corners: tuple[float, float, float, float], colour: str, width: int = 2) -> None:
        """A frame."""
        scaled = [value * SCALE for value in corners]
        self._pen.rectangle(scaled, outline=colour, width=width * SCALE)

    def arch(self, start: float, end: float, base: float, height: float) -> None:
        """An arc over a base line, with a point where it comes down at `end`."""
        left, right = min(start, end), max(start, end)
        oval = [value * SCALE for value in (left, base - height, right, base + height)]
        self._pen.arc(oval, 180, 360, fill=FAINT, width=SCALE)
        x, y = _scaled((end, base))
        self._pen.polygon([(x, y), (x - 7, y - 10), (x + 7, y - 10)], fill=FAINT)

    def paste(self, picture: Image.Image, at: tuple[int, int], size: tuple[int, int]) -> None:
        """An image, resized."""
        self.image.paste(picture.resize((size[0] * SCALE, size[1] * SCALE), Image.Resampling.NEAREST), _whole(at))

    def save(self, path: Path) -> None:
        """As a PNG of few colours."""
        small = self.image.reduce(SCALE)
        small.quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)


def draw() -> Sheet:
    """The whole image."""
    sheet = Sheet(WIDTH, 836)
    parser = load_parser()
    tree, triplets = next(trees([READ], parser)), parse_captions([READ], parser)[0]
    draw_tree(sheet, tree, triplets, top=20)
    draw_triplets(sheet, triplets, top=232)
    scene = make_scene(*SCENE)
    boxes = [Box(thing.category, *thing.box) for thing in scene.objects]
    stated = parse_captions([GROUNDED], parser)[0]
    pairs = ground(stated, boxes).pairs
    sheet.text((MARGIN, 362), f"“{GROUNDED}”", size=18)
    for mention, left in enumerate((MARGIN, WIDTH // 2 + MARGIN // 2)):
        alternatives = [pair for pair in pairs if pair.mention == mention]
        draw_mention(sheet, scene, boxes, alternatives, stated[alternatives[0].triplet], (left, 380))
    return sheet


def draw_tree(sheet: Sheet, tree: Doc, triplets: Sequence[Triplet], top: int) -> None:
    """The caption's words on a line, coloured by their part in some triplet, under the arcs of its tree."""
    base = top + 178
    step = (WIDTH - 2 * MARGIN) / len(tree)
    middles = [MARGIN + step * (token.i + 0.5) for token in tree]
    names: list[tuple[Place, str]] = []
    for token in tree:
        if token.head.i == token.i:
            continue
        start, end = middles[token.head.i], middles[token.i]
        shift = step / 8 if end > start else -step / 8
        span = abs(token.i - token.head.i)
        height = min(20 + 15 * span, 160)
        sheet.arch(start + shift, end, base - 18, height)
        names.append((((start + shift + end) / 2, base - 18 - height), token.dep_))
    for place, name in names:
        sheet.text(place, name, FAINT, 11, "mm")
    for token in tree:
        sheet.text((middles[token.i], base), token.text, _part_of(token.idx, triplets), 17, "ms")


def draw_triplets(sheet: Sheet, triplets: Sequence[Triplet], top: int) -> None:
    """A row for each triplet: lemmas, the words that say it, and the rule."""
    columns = (MARGIN, 110, 240, 350, 760)
    for x, title in zip(columns, ("subject", "predicate", "object", "as written", "rule"), strict=True):
        sheet.text((x, top), title, FAINT, 13)
    for row, said in enumerate(triplets, start=1):
        y = top + 24 * row
        lemmas = (said.subject_lemma, said.predicate_lemma, said.object_lemma)
        for x, lemma, colour in zip(columns, lemmas, (SUBJECT, PREDICATE, OBJECT), strict=False):
            sheet.text((x, y), lemma, colour)
        sheet.text((columns[3], y), f"{said.subject} | {said.predicate} | {said.object}")
        sheet.text((columns[4], y), said.rule)


def draw_mention(
    sheet: Sheet, scene: Scene, boxes: Sequence[Box], pairs: Sequence[Pair], said: Triplet, at: tuple[int, int]
) -> None:
    """The scene with the boxes that a mention may mean, a line for each pair, the thicker the likelier."""
    width = WIDTH // 2 - 3 * MARGIN // 2
    zoom = width / scene.width
    sheet.paste(render(scene), at, (width, round(scene.height * zoom)))
    for role, colour in (("subject", SUBJECT), ("object", OBJECT)):
        for index in {getattr(pair, role) for pair in pairs}:
            box = boxes[index]
            corners = box.x, box.y, box.x + box.w, box.y + box.h
            x, y, right, bottom = (value * zoom for value in corners)
            sheet.box((at[0] + x, at[1] + y, at[0] + right, at[1] + bottom), colour)
    for pair in sorted(pairs, key=lambda pair: pair.prior):
        start, end = (_centre(boxes[index], zoom, at) for index in (pair.subject, pair.object))
        sheet.line(start, end, PREDICATE, 1 + 7 * pair.prior)
    for pair, place in zip(pairs, _apart(pairs, boxes, zoom, at), strict=True):
        sheet.tag(place, f"{pair.prior:.2f}", PREDICATE)
    total = sum(pair.prior for pair in pairs)
    stated = f"{said.subject_lemma} {said.predicate_lemma} {said.object_lemma}"
    y = at[1] + scene.height * zoom + 24
    sheet.text((at[0], y), f"{stated}: {len(pairs)} alternatives, priors sum to {total:.0f}", size=16)


def _apart(pairs: Sequence[Pair], boxes: Sequence[Box], zoom: float, at: Place) -> Iterator[Place]:
    """A place on each pair's line for its number, where none of those before is near."""
    taken: list[Place] = []
    for pair in pairs:
        start, end = (_centre(boxes[index], zoom, at) for index in (pair.subject, pair.object))
        along = [(start[0] + (end[0] - start[0]) * t, start[1] + (end[1] - start[1]) * t) for t in SHARES]
        free = [place for place in along if all(_is_apart(place, other) for other in taken)]
        taken.append((free or along)[0])
        yield taken[-1]


def _is_apart(place: Place, other: Place) -> bool:
    return abs(place[0] - other[0]) > 40 or abs(place[1] - other[1]) > 20


def _centre(box: Box, zoom: float, at: Place) -> Place:
    return at[0] + (box.x + box.w / 2) * zoom, at[1] + (box.y + box.h / 2) * zoom


def _part_of(place: int, triplets: Sequence[Triplet]) -> str:
    """The colour of a character's part: predicates first, as their words have no other."""
    for said in triplets:
        if said.predicate_start <= place < said.predicate_end:
            return PREDICATE
    for said in triplets:
        if said.subject_start <= place < said.subject_end:
            return SUBJECT
        if said.object_start <= place < said.object_end:
            return OBJECT
    return INK


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size * SCALE)


def _scaled(at: Place) -> Place:
    return at[0] * SCALE, at[1] * SCALE


def _whole(at: tuple[int, int]) -> tuple[int, int]:
    return at[0] * SCALE, at[1] * SCALE


if __name__ == "__main__":
    draw().save(PICTURE)
