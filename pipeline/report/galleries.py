"""Makes the galleries of a report: images that are chosen, saved to its folder, and laid out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.data.images.folders import locate_image, open_folder
from pipeline.data.images.opening import BadImage, read_image
from pipeline.report.picture_card import Card, lay_out_card, save_picture
from pipeline.report.picture_choice import choose_pictures
from pipeline.report.samples import Sample
from pipeline.report.view import RunView


@dataclass(frozen=True)
class Gallery:
    """Pictures that were chosen in one way; `how` says in which, and from how many."""

    name: str
    title: str
    how: str
    cards: tuple[Card, ...]


@dataclass(frozen=True)
class Galleries:
    """All galleries of a report."""

    galleries: tuple[Gallery, ...]
    absent: Mapping[str, str]
    """Dataset → why none of its images is at hand"""

    @property
    def most_arrows(self) -> int:
        """The highest number that a relation of any image has."""
        return max((len(card.arrows) for gallery in self.galleries for card in gallery.cards), default=0)

    @property
    def judged(self) -> bool:
        """Whether the relations of any image are marked as right or wrong."""
        return any(card.sample.is_judged for gallery in self.galleries for card in gallery.cards)


def draw_galleries(view: RunView, count: int, seed: int, folder: Path) -> Galleries:
    """Chooses the images of a run and saves them below `folder`. An image of both galleries is saved once."""
    chosen = choose_pictures(view.run, view.label_sets, view.choice, count, seed)
    datasets = {sample.row["dataset"] for each in chosen for sample in each.samples}
    absent = {dataset: reason for dataset in sorted(datasets) if (reason := _absence(view.image_folders, dataset))}
    return Galleries(
        tuple(
            Gallery(
                each.name,
                each.title,
                each.how,
                tuple(
                    _card(f"{each.name}-{number}", sample, view.image_folders, absent, folder)
                    for number, sample in enumerate(each.samples, start=1)
                ),
            )
            for each in chosen
        ),
        absent,
    )


def highlights(arrows: int) -> str:
    """Style rules by which a relation that is pointed at or focused stands out in list and image, without a script."""
    return "".join(_highlights(arrows))


def _highlights(arrows: int) -> Iterator[str]:
    for n in range(1, arrows + 1):
        yield f".card:has(.r{n}:is(:hover,:focus)) .a{n}{{display:inline;opacity:1}}"
        yield f".card:has(.r{n}:is(:hover,:focus)) .a{n} rect{{display:inline}}"
        yield f".card:has(.a{n}:hover) .r{n}{{background:var(--mark)}}"


def _absence(folders: Mapping[str, Path | str], dataset: str) -> str:
    """Why no image of a dataset is at hand, or nothing where its folder is there."""
    if dataset not in folders:
        return "the run does not know where the images of this dataset lie"
    fault = open_folder(folders[dataset]).fault()
    return fault and f"{fault} on this machine"


def _card(
    anchor: str, sample: Sample, folders: Mapping[str, Path | str], absent: Mapping[str, str], folder: Path
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
    save_picture(image, folder / file)
    return lay_out_card(anchor, sample, file, size)
