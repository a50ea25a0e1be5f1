"""Finds the files and sizes of images with imported labels, which the authors' label files do not state."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pipeline.data.datasets.annotations import is_inside, shown
from pipeline.data.datasets.json_stream import stream_fields
from pipeline.data.images.opening import BadImage, probe
from pipeline.interop.official_labels import LabelledImage
from pipeline.runtime.stage import Rejected
from storage.errors import FatalError

_EXPECTED = 'paths of images: an object {"image id": "train/patch16/name.jpg"} (image_id_to_filepath.json)'


@dataclass
class ImageFiles:
    """Image folder of a set and Objects365's paths by image id. Both are optional."""

    folder: Path | None = None
    paths: Path | None = None
    found: int = 0
    """How many images were found so far."""
    missing: str = ""
    """File of the first image that was not found."""
    _by_id: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.folder is not None and not self.folder.is_dir():
            raise FatalError(f"--images {self.folder}: not a folder; name the folder that holds the images")
        if self.paths is not None:
            for image_id, path in stream_fields(self.paths, _EXPECTED):
                if isinstance(path, str) and is_inside(path):
                    self._by_id[image_id] = path

    def complete(self, found: LabelledImage) -> None:
        """Sets the image's file and size and clamps its boxes to it. Adds unusable files to the image's rejects.

        A file lies at its path inside the folder (train2017/1.jpg) or, by its name alone, in the folder itself.
        """
        image = found.image
        listed = self._by_id.get(str(image["image_id"])) if image["dataset"] == "o365" else None
        if listed is not None:
            image["uri"] = listed
        if self.folder is None:
            return
        if not is_inside(image["uri"]):
            found.rejects.append(Rejected(image["image_id"], "file name not usable", shown(image["uri"])))
            return
        name = Path(image["uri"]).name
        try:
            if not (self.folder / image["uri"]).exists() and (self.folder / name).exists():
                image["uri"] = name
            size = probe(self.folder / image["uri"], verify="header")
        except BadImage as bad:
            self.missing = self.missing or image["uri"]
            found.rejects.append(Rejected(image["image_id"], f"{bad.reason} (labels kept)", bad.value))
            return
        except OSError:  # e.g. a name that is too long for a file
            self.missing = self.missing or image["uri"]
            found.rejects.append(Rejected(image["image_id"], "file name not usable", shown(image["uri"])))
            return
        self.found += 1
        image["width"], image["height"] = size.width, size.height
        for box in image["boxes"]:
            right, bottom = min(box["x"] + box["w"], size.width), min(box["y"] + box["h"], size.height)
            # The authors' normalised boxes are off by up to a pixel of rounding, which is not an error.
            beyond = max(box["x"] + box["w"] - right, box["y"] + box["h"] - bottom)
            if beyond > 1:
                found.rejects.append(Rejected(image["image_id"], "box beyond the image (clamped)", shown(box)))
            if beyond > 0:
                box["w"], box["h"] = max(right - box["x"], 0.0), max(bottom - box["y"], 0.0)
