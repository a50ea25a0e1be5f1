"""Makes the galleries of a report: chooses images, saves them to its folder, and lays them out."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.data.images.folders import locate_image, open_folder
from pipeline.data.images.opening import BadImage, read_image
from pipeline.labels.kept_labels import ChoiceSettings
from pipeline.labels.labelled_partitions import partition_artifacts
from pipeline.report.image_card import Card, lay_out_card, save_image
from pipeline.report.samples import SampleImage, read_samples
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
    random_ones, hardest = (
        random_images(run, datasets, choice, count, seed),
        hardest_images(run, datasets, choice, count // 2, seed),
    )
    chosen = [each for each in (random_ones, hardest) if each.samples]
    sets = {sample.row["dataset"] for each in chosen for sample in each.samples}
    absent = {dataset: reason for dataset in sorted(sets) if (reason := absence(view.image_folders, dataset))}
    cards = [
        [
            _card(f"{each.name}-{number}", sample, view.image_folders, absent, folder)
            for number, sample in enumerate(each.samples, start=1)
        ]
        for each in chosen
    ]
    return Galleries(
        tuple(replace(each, cards=tuple(drawn)) for each, drawn in zip(chosen, cards, strict=True)), absent
    )


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
    save_image(image, folder / file)
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
            "the most disagreements: kept labels that are not in the ground truth (✗) and ground-truth relations that were "
            "not kept (○)."
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
