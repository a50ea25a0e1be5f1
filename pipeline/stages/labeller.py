"""What labels candidates, as the settings of stage `tag` say: the Relation Tagger, or a baseline to hold it against."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from pipeline.runtime.processes import choose_device, keep_freed_memory
from pipeline.runtime.settings import Settings, runtime
from pipeline.training.settings import CALIBRATION
from storage.artifact import Artifact
from storage.digests import digest_file
from storage.errors import FatalError
from tagger.labelling.calibration import Calibration

if TYPE_CHECKING:
    from tagger.labelling.blind_labeller import BlindLabeller
    from tagger.labelling.clip_labeller import ClipLabeller
    from tagger.labelling.labeller import Labeller


class LabellerSettings(Settings):
    """How candidates are scored."""

    method: Literal["tagger", "clip", "prior", "naive"] = "tagger"
    """tagger: the Relation Tagger. clip: the rectangle around both boxes against words; prior: what boxes and names alone
    tell; naive: every candidate is taken for true."""
    clip: Path | None = runtime(None)
    """clip: a folder with a CLIP of transformers; its content is part of the key."""
    predicates: Literal["pair", "image"] = "pair"
    """pair: a predicate is scored on the pairs that captions propose it for; image: every predicate that the image's
    captions propose on every proposed pair, as the authors do."""
    floor: float = Field(0.05, ge=0, le=1)
    """Lower scores are not kept."""
    categories: tuple[str, ...] = ()
    """Names in the list of texts of every image, e.g. all of the data set's; none given: the tagger's most frequent."""
    category_texts: int = Field(100, ge=0)
    """So many of the tagger's object names, the most frequent, where `categories` gives none."""
    predicate_texts: int = Field(200, ge=0)
    """So many of the tagger's predicates, the most frequent, stand beside the image's own; 0, as the authors do: none."""
    precision: Literal["float32", "bfloat16"] = "float32"
    batch_size: int = Field(16, ge=1)
    """Images that go through the encoder together; changes no more than the last bits of scores, but these."""
    pairs_together: int = Field(1600, ge=1)
    """Pairs of boxes that go through the decoders together, likewise: bounds the memory of crowded images."""
    device: Literal["auto", "cpu", "cuda"] = runtime("auto")

    def clip_files(self) -> dict[str, Path]:
        """CLIP's folder, where CLIP labels. Raises `FatalError` when there is none."""
        if self.method != "clip":
            return {}
        if self.clip is None or not self.clip.is_dir():
            raise FatalError(f"tag.clip = {self.clip}: method 'clip' needs a folder with a CLIP's weights and files")
        return {"clip": self.clip}


@dataclass(frozen=True)
class OpenLabeller:
    """A labeller that is ready. `digest` tells its weights apart (a method without any: its name).

    `image_size`: longest side of the normalised pixels that it wants, or None for plain ones in [0, 1], as they are.
    """

    labeller: Labeller | ClipLabeller | BlindLabeller
    digest: str
    image_size: int | None


def open_labeller(settings: LabellerSettings, tagger: Artifact, worker: int = 0) -> OpenLabeller:
    """Load the labeller of worker number `worker`.

    Raises `FatalError` for weights that do not fit, belong to another network or are not finite, and for a missing GPU.
    """
    if settings.method == "tagger":
        return _tagger(settings, tagger, worker)
    if settings.method == "clip":
        return _clip(settings, worker)
    from tagger.labelling.blind_labeller import BlindLabeller

    return OpenLabeller(BlindLabeller(settings.method, settings.floor), settings.method, None)


def _tagger(settings: LabellerSettings, artifact: Artifact, worker: int) -> OpenLabeller:
    from models.relation_tagger import RelationTagger
    from models.weights import WeightsError, load
    from tagger.labelling.labeller import Labeller

    keep_freed_memory()
    vocabulary = json.loads(artifact.file("vocabulary.json").read_bytes())
    weights, calibration = artifact.file("model.safetensors"), artifact.file(CALIBRATION)
    try:
        tagger = load(weights, artifact.folder)
        if not isinstance(tagger, RelationTagger):
            raise WeightsError(f"weights of a {type(tagger).__name__}, not of a Relation Tagger")
        labeller = Labeller(
            tagger.to(choose_device(settings.device, worker)),
            settings.categories or vocabulary["objects"][: settings.category_texts],
            vocabulary["predicates"][: settings.predicate_texts],
            Calibration.from_json(calibration.read_bytes()) if calibration.is_file() else None,
            settings.predicates,
            settings.floor,
            settings.batch_size,
            settings.pairs_together,
            settings.precision,
        )
    except (WeightsError, FloatingPointError, ValueError) as error:
        raise FatalError(f"tagger {artifact.key[:12]}: {error}; remove {artifact.folder} and run again") from error
    return OpenLabeller(labeller, digest_file(weights), vocabulary["image_size"])


def _clip(settings: LabellerSettings, worker: int) -> OpenLabeller:
    from tagger.labelling.clip_labeller import ClipLabeller

    (folder,) = settings.clip_files().values()
    try:
        labeller = ClipLabeller(folder, settings.floor, settings.batch_size, choose_device(settings.device, worker))
    except (OSError, ValueError) as error:
        raise FatalError(f"tag.clip = {folder}: not a CLIP of transformers ({error})") from error
    return OpenLabeller(labeller, f"clip {folder.name}", None)
