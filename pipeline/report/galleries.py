"""Makes the galleries of a report: chooses images, saves them to its folder, and lays them out.

An image has its boxes by role, numbered arrows, and names that do not overlap. Lengths are in thousandths of its width,
so that style sheets can size text and strokes.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from pipeline.data.images.folders import locate_image, open_folder
from pipeline.data.images.opening import BadImage, read_image
from pipeline.labels.kept_labels import ChoiceSettings
from pipeline.labels.labelled_partitions import partition_artifacts
from pipeline.report.drawing import Drawing, Line, Point, Rect, along, beside
from pipeline.report.samples import SampleImage, ShownRelation, read_samples
from pipeline.report.view import RunView
from storage.runs import Run


@dataclass(frozen=True)
class Gallery:
    """Images that were chosen by one rule; `how` states it and the number of images to choose from."""

    name: str
    title: str
    how: str
    samples: tuple[SampleImage, ...]
    cards: tuple[Card, ...] = ()
    """The samples as they are drawn."""


@dataclass(frozen=True)
class Galleries:
    """All galleries of a report."""

    galleries: tuple[Gallery, ...]
    absent: Mapping[str, str]
    """Dataset → why its images are unavailable."""

    @property
    def most_arrows(self) -> int:
        """The highest relation number in any image."""
        return max((len(card.arrows) for gallery in self.galleries for card in gallery.cards), default=0)

    @property
    def judged(self) -> bool:
        """Whether relations of any image are marked as right or wrong."""
        return any(card.sample.is_judged for gallery in self.galleries for card in gallery.cards)


def draw_galleries(view: RunView, count: int, seed: int, folder: Path) -> Galleries:
    """Chooses the images of a run, `count` at random and half as many of the hardest, and saves them below `folder`.

    An image in both galleries is saved once. A gallery without images is omitted.
    """
    run, datasets, choice = view.run, view.label_sets, view.choice
    at_random = random_images(run, datasets, choice, count, seed)
    hardest = hardest_images(run, datasets, choice, count // 2, seed)
    chosen = [each for each in (at_random, hardest) if each.samples]
    sets = {sample.row["dataset"] for each in chosen for sample in each.samples}
    absent = {dataset: reason for dataset in sorted(sets) if (reason := absence(view.image_folders, dataset))}
    galleries = []
    for each in chosen:
        numbered = enumerate(each.samples, start=1)
        cards = (_card(f"{each.name}-{n}", sample, view.image_folders, absent, folder) for n, sample in numbered)
        galleries.append(replace(each, cards=tuple(cards)))
    return Galleries(tuple(galleries), absent)


def highlights(arrows: int) -> str:
    """Style rules that highlight a hovered or focused relation in list and image, without a script."""
    return "".join(
        f".card:has(.r{n}:is(:hover,:focus)) .a{n}{{display:inline;opacity:1}}"
        f".card:has(.r{n}:is(:hover,:focus)) .a{n} rect{{display:inline}}"
        f".card:has(.a{n}:hover) .r{n}{{background:var(--mark)}}"
        for n in range(1, arrows + 1)
    )


def absence(folders: Mapping[str, Path | str], dataset: str) -> str:
    """Why the images of a dataset are unavailable; "" if its folder can be read."""
    if dataset not in folders:
        return "the run does not know where the images of this dataset are"
    fault = open_folder(folders[dataset]).fault()
    return fault and f"{fault} on this machine"


def _card(
    anchor: str, sample: SampleImage, folders: Mapping[str, Path | str], absent: Mapping[str, str], folder: Path
) -> Card:
    row = sample.row
    size = row["width"], row["height"]  # unknown for some imported images
    if row["dataset"] in absent:
        return lay_out_card(anchor, sample)
    file = f"images/{row['dataset']}-{row['image_id']}.jpg"
    try:
        image = read_image(locate_image(folders, row))
    except BadImage as bad:
        return lay_out_card(anchor, sample, problem=str(bad))
    size = size if all(size) else image.size
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    image.save(folder / file, quality=85)
    return lay_out_card(anchor, sample, file, size)


EXAMINED = 5000
"""Maximum number of images from which the hardest are chosen: a thousand take about a second."""


def random_images(run: Run, datasets: Sequence[str], choice: ChoiceSettings, count: int, seed: int) -> Gallery:
    """Draws at most `count` images of the labelled datasets with equal probability.

    The draw depends only on the seed and on the number of images per partition, so every copy of a run repeats it.
    """
    sizes = _sizes(run, datasets)
    population = sum(sizes.values())
    places = sorted(random.Random(seed).sample(range(population), min(count, population)))
    rows: dict[str, list[int]] = {}
    start = 0
    for partition, size in sizes.items():
        if inside := [place - start for place in places if start <= place < start + size]:
            rows[partition] = inside
        start += size
    samples = tuple(read_samples(run, datasets, choice, rows))
    how = f"{len(samples):,} of {population:,} images, drawn at random with seed {seed}."
    if len(samples) == population:
        how = f"All {population:,} images."
    return Gallery("random", "Drawn at random", how, samples)


def hardest_images(run: Run, datasets: Sequence[str], choice: ChoiceSettings, count: int, seed: int) -> Gallery:
    """Chooses at most `count` images whose labels disagree most with the ground truth, in descending order.

    If no image has ground truth, chooses those with the most uncertain labels. If there are more than `EXAMINED`
    images, considers only as many whole partitions, drawn with the seed, as are needed to reach that number.
    """
    sizes = _sizes(run, datasets)
    examined = _some_partitions(sizes, seed)
    every = list(read_samples(run, datasets, choice, {part: range(sizes[part]) for part in examined})) if count else []
    judged = [sample for sample in every if sample.is_judged]
    if judged:
        ranked = sorted(judged, key=lambda sample: (-sample.disagreements, -sample.doubt))
        samples = [sample for sample in ranked if sample.disagreements][:count]
        among = f"{len(judged):,} images with ground-truth relations"
        what = (
            "the most disagreements: kept labels that are not in the ground truth (✗) and ground-truth relations that "
            "were not kept (○)."
        )
    else:
        ranked = sorted(every, key=lambda sample: -sample.doubt)
        samples = [sample for sample in ranked if sample.doubt][:count]
        among = f"{len(every):,} images"
        what = "the most doubtful labels: the expected number of wrong decisions if each confidence were a probability."
    if len(examined) < len(sizes):
        among += f" in {len(examined):,} of {len(sizes):,} partitions, drawn with seed {seed}"
    return Gallery("hardest", "Hardest", f"Of {among}, the {len(samples):,} with {what}", tuple(samples))


def _sizes(run: Run, datasets: Sequence[str]) -> Mapping[str, int]:
    """Partition → number of its images, ordered by name."""
    every = sorted(partition_artifacts(run, datasets).items())
    return {name: found.images.manifest.counts.rows_out for name, found in every if found.images is not None}


def _some_partitions(sizes: Mapping[str, int], seed: int) -> list[str]:
    if sum(sizes.values()) <= EXAMINED:
        return list(sizes)
    chosen: list[str] = []
    total = 0
    for partition in random.Random(seed).sample(list(sizes), len(sizes)):
        if chosen and total + sizes[partition] > EXAMINED:
            break
        chosen.append(partition)
        total += sizes[partition]
    return chosen


WIDTH = 1000
"""Width of every drawing, in drawing units."""
LONGEST_SIDE = 1280
"""Longest side of stored images, in pixels. Smaller images keep their size."""
DRAWN = {"kept": 40, "dropped": 20, "missed": 20}
"""Maximum number of relations of each kind in an image's list; the others are counted."""
SHOWN = {"kept": 10, "dropped": 4, "missed": 4}
"""How many of them are listed before the image is enlarged."""
IN_ALT_TEXT = 12
_ALONG = tuple(0.5 + side * step / 20 for step in range(9) for side in ((1, -1) if step else (1,)))
"""Candidate places for an arrow's number, as shares of its length, the middle first."""
BADGE = 52
"""Minimum distance between the numbers of two arrows, if there is room."""
ASIDE = 9
"""Distance of an arrow from the line between the centres of its boxes."""
LETTERS = 36
"""Font size of the names of boxes."""


class Arrow(NamedTuple):
    """A numbered relation, listed under the same number. Its arrow runs from the subject's centre to the object's."""

    number: int
    kind: str
    """kept, dropped or missed."""
    relation: ShownRelation
    subject: Rect
    object: Rect
    line: Line
    badge: Point
    """Centre of the number."""
    folded: bool
    """Whether the relation is hidden until the image is enlarged."""


@dataclass(frozen=True)
class Card:
    """An image in the report. `file` is None if the image is unavailable; `problem` then says why."""

    anchor: str
    sample: SampleImage
    file: str | None
    problem: str
    drawing: Drawing
    """Its outlines have the role of a box among the kept labels: subject, object or idle."""
    arrows: tuple[Arrow, ...]
    omitted: dict[str, int]
    """Kind → number of relations over the limit, which are neither drawn nor listed."""

    def of_kind(self, kind: str) -> list[Arrow]:
        """The listed relations of a kind."""
        return [arrow for arrow in self.arrows if arrow.kind == kind]

    @property
    def alt(self) -> str:
        """Alternative text of the image: its kept labels or, if it has none, its boxes."""
        kept = self.of_kind("kept")
        said = [f"{a.relation.subject} {a.relation.predicate} {a.relation.object}" for a in kept[:IN_ALT_TEXT]]
        said = said or [box.name for box in self.sample.boxes[:IN_ALT_TEXT]]
        total = len(self.sample.kept) or len(self.sample.boxes)
        more = f" and {total - len(said)} more" if total > len(said) else ""
        what = "Kept labels" if kept else "No kept label. Boxes"
        return f"{what}: {', '.join(said) or 'none'}{more}."


def lay_out_card(
    anchor: str, sample: SampleImage, file: str | None = None, size: tuple[int, int] = (1, 1), problem: str = ""
) -> Card:
    """Lays out one image. `size`: width and height of the image that its boxes refer to, in pixels, if it is drawn."""
    unit = WIDTH / size[0]
    rects = [Rect(box.x, box.y, box.w, box.h).scaled(unit) for box in sample.boxes]
    named = [(box.name, rect) for box, rect in zip(sample.boxes, rects, strict=True) if box.named]
    kinds: dict[str, Sequence[ShownRelation]] = {kind: getattr(sample, kind) for kind in DRAWN}
    return Card(
        anchor=anchor,
        sample=sample,
        file=file,
        problem=problem,
        drawing=Drawing.of((WIDTH, round(size[1] * unit)), LETTERS, _outlines(sample, rects), named),
        arrows=tuple(_arrows(kinds, rects)),
        omitted={kind: max(0, len(found) - DRAWN[kind]) for kind, found in kinds.items()},
    )


def _outlines(sample: SampleImage, rects: Sequence[Rect]) -> Iterator[tuple[Rect, str]]:
    """Yields boxes without a role first, so that the others are drawn over them. One with two roles has two."""
    subjects = {label.ends[0] for label in sample.kept}
    objects = {label.ends[1] for label in sample.kept}
    for place, rect in enumerate(rects):
        if place not in subjects | objects:
            yield rect, "idle"
    for place in sorted(subjects | objects):
        if place in subjects:
            yield rects[place], "subject"
        if place in objects:
            yield rects[place].inset() if place in subjects else rects[place], "object"


def _arrows(kinds: dict[str, Sequence[ShownRelation]], rects: Sequence[Rect]) -> Iterator[Arrow]:
    number = 0
    for kind, relations in kinds.items():
        badges: list[Point] = []  # only the arrows of kept labels are visible together
        for place, relation in enumerate(relations[: DRAWN[kind]]):
            number += 1
            subject, object_ = (rects[end] for end in relation.ends)
            line = beside(subject.centre, object_.centre, ASIDE)
            badge = _badge(line, badges)
            badges.append(badge)
            folded = place >= SHOWN[kind]
            yield Arrow(number, kind, relation, subject, object_, line, badge, folded)


def _badge(line: Line, taken: Sequence[Point]) -> Point:
    """The place on the line nearest to its middle that keeps the other numbers readable."""
    best, farthest = (0.0, 0.0), -1.0
    for share in _ALONG:
        x, y = along(line, share)
        at = round(x, 1), round(y, 1)
        apart = min((math.dist(at, other) for other in taken), default=math.inf)
        if apart >= BADGE:
            return at
        if apart > farthest:
            best, farthest = at, apart
    return best
