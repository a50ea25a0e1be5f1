"""A captioner that looks at an image's brightness, and an export of labels as lines of text."""

from collections.abc import Sequence
from pathlib import Path

from PIL.Image import Image

from rlip.plugins import Caption, CaptionerPlugin, RunRows, Settings, Tally, relations_of


class Options(Settings):
    """Section `[caption.options]` of a recipe. `states`: what every caption states."""

    states: str = "a person next to a horse"


class Brightness(CaptionerPlugin):
    """Says "a dark picture of ..." or "a bright picture of ..."."""

    version = 1
    Options = Options
    needs_images, side, rejects = True, None, ()

    def open(self, worker: int = 0) -> "Brightness":
        """Has nothing to load."""
        return self

    def caption(self, images: Sequence[Image], image_ids: Sequence[int]) -> list[list[Caption]]:
        """One caption for each image."""
        return [[Caption(self._text(image), 0, None, None, "brightness")] for image in images]

    def _text(self, image: Image) -> str:
        mean = image.convert("L").resize((1, 1)).getpixel((0, 0))
        return f"a {'bright' if mean > 127 else 'dark'} picture of {self.options.states}"


def write_lines(rows: RunRows, folder: Path, threshold: float, tally: Tally) -> None:
    """One line for each label, with its score if it has one, in a file for each dataset."""
    for dataset in rows.ingested():
        with (folder / f"{dataset}.txt").open("w") as file:
            for image in rows.images(dataset, "images", "relations"):
                names = [box["category"] for box in image.items("images", "boxes")]
                for relation in relations_of(image, threshold, tally):
                    words = names[relation["subject"]], relation["predicate"], names[relation["object"]]
                    file.write("\t".join((str(image.image_id), *words, str(relation.get("score", "")))) + "\n")
                    tally.wrote["relations"] += 1
