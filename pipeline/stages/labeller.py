"""What labels candidates, as the settings of stage `tag` choose: the Relation Tagger, or a baseline to compare it with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field

from pipeline.runtime.devices import best_precision, choose_device
from pipeline.runtime.processes import keep_freed_memory
from pipeline.runtime.settings import Settings, file_read, runtime
from pipeline.training.settings import CALIBRATION
from storage.artifact import REMOVE_ARTIFACT, Artifact
from storage.digests import digest_file
from storage.errors import FatalError
from storage.json_files import read_json
from tagger.labelling.calibration import Calibration

if TYPE_CHECKING:
    from tagger.labelling.blind_labeller import BlindLabeller
    from tagger.labelling.clip_labeller import ClipLabeller
    from tagger.labelling.labeller import Labeller


class LabellerSettings(Settings):
    """How candidates are scored."""

    method: Literal["tagger", "clip", "prior", "naive"] = "tagger"
    """What scores candidates. tagger: the Relation Tagger; clip: a CLIP model that compares the rectangle around both boxes
    with words; prior: each candidate's prior, from boxes and names alone; naive: every candidate gets score 1."""
    weights: str | None = file_read(None)
    """A trained tagger to reuse instead of training one: a weights file, a folder with one, or a run of the store
    (`demo`, `demo@2`). Its content is part of the key."""
    clip: Path | None = file_read(None)
    """Folder of a transformers CLIP model for method "clip"; its content is part of the key."""
    predicates: Literal["pair", "image"] = "pair"
    """Where a predicate is scored. pair: on pairs that captions propose it for; image: all proposed pairs (the authors' way)."""
    floor: float = Field(0.05, ge=0, le=1)
    """Minimum score of a label; lower-scored labels are not stored."""
    categories: tuple[str, ...] = ()
    """Object names in every image's list of texts, e.g. all categories of the dataset; empty: the tagger's most frequent."""
    category_texts: int = Field(100, ge=0)
    """Number of the tagger's most frequent object names in every image's list of texts, if `categories` is empty."""
    predicate_texts: int = Field(200, ge=0)
    """Number of the tagger's most frequent predicates in every image's list of texts, beside its own; the authors use 0."""
    precision: Literal["auto", "float32", "bfloat16"] = "float32"
    """Floating-point format in which the tagger computes. auto: bfloat16 if the device has instructions for it, else float32,
    and the key holds which."""
    batch_size: int = Field(16, ge=1)
    """Images per pass through the encoder. It changes the last bits of scores, so it is part of the key."""
    pairs_together: int = Field(1600, ge=1)
    """Maximum number of pairs of boxes per pass through the decoders, which bounds memory. It is part of the key likewise."""
    device: Literal["auto", "cpu", "cuda"] = runtime("auto")
    """Where the labeller runs. cuda: each worker takes a GPU in turn; auto: GPUs where there are any, else the CPU."""

    def planned(self) -> Self:
        """The same settings, with the precision that "auto" stands for on this machine."""
        return self.model_copy(update={"precision": best_precision(self.device)}) if self.precision == "auto" else self

    def clip_files(self) -> dict[str, Path]:
        """CLIP's folder, for method "clip". Raises `FatalError` when there is no such folder."""
        if self.method != "clip":
            return {}
        if self.clip is None or not self.clip.is_dir():
            raise FatalError(f"tag.clip = {self.clip}: method 'clip' needs a folder with a transformers CLIP model")
        return {"clip": self.clip}


@dataclass(frozen=True)
class OpenLabeller:
    """A labeller that is ready to use. `digest` identifies its weights, or names a method without weights.

    `image_size`: longest side in pixels of the normalised images that it takes; None: full-size images in [0, 1].
    """

    labeller: Labeller | ClipLabeller | BlindLabeller
    digest: str
    image_size: int | None


def open_labeller(settings: LabellerSettings, tagger: Artifact, worker: int = 0) -> OpenLabeller:
    """Load the labeller for worker number `worker`.

    Raises `FatalError` when weights do not fit, belong to another network or are not finite, or when the GPU is missing.
    """
    if settings.method == "tagger":
        return _tagger(settings, tagger, worker)
    if settings.method == "clip":
        return _clip(settings, worker)
    from tagger.labelling.blind_labeller import BlindLabeller

    return OpenLabeller(BlindLabeller(settings.method, settings.floor), settings.method, None)


def _tagger(settings: LabellerSettings, artifact: Artifact, worker: int) -> OpenLabeller:
    from models.relation_tagger import RelationTagger
    from models.weights import load
    from models.weights_file import WeightsError
    from tagger.labelling.labeller import Labeller

    assert settings.precision != "auto", "a run plans its settings"
    keep_freed_memory()
    vocabulary = read_json(artifact.file("vocabulary.json"), dict[str, Any], REMOVE_ARTIFACT)
    weights, calibration = artifact.file("model.safetensors"), artifact.file(CALIBRATION)
    try:
        tagger = load(weights, artifact.folder)
        if not isinstance(tagger, RelationTagger):
            raise WeightsError(f"holds weights of {type(tagger).__name__}, not of a Relation Tagger")
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
        raise FatalError(f"tag.clip = {folder}: not a transformers CLIP model ({error})") from error
    return OpenLabeller(labeller, f"clip {folder.name}", None)
