"""Labellers, which score candidates: their protocol, this project's own, and their settings."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Protocol

from pydantic import AfterValidator, Field

from pipeline.runtime.devices import choose_device
from pipeline.runtime.plugins import Plugin, PluginName, PluginOptions, PluginSettings
from pipeline.runtime.processes import keep_freed_memory
from pipeline.runtime.settings import file_read, runtime
from pipeline.training.config import MODEL, VOCABULARY
from pipeline.training.settings import CALIBRATION
from pipeline.training.vocabulary import TrainedNames
from storage.artifact import REMOVE_ARTIFACT, Artifact
from storage.digests import digest_file
from storage.errors import FatalError
from tagger.labelling.blind_labeller import BlindLabeller, Way
from tagger.labelling.calibration import Calibration, Stack

if TYPE_CHECKING:
    from tagger.labelling.tagging_image import Labels, TaggingImage


class LabellerSettings(PluginSettings):
    """How candidates are scored."""

    section: ClassVar[str] = "tag"
    group: ClassVar[str] = "labellers"
    named_by: ClassVar[str] = "method"

    method: Annotated[str, AfterValidator(PluginName("labellers"))] = "tagger"
    """What scores candidates. tagger: the Relation Tagger; clip: a CLIP model on the rectangle around both boxes; vlm:
    a vision-language model behind an HTTP endpoint, by forced choice (docs/labels.md); prior: boxes and names alone;
    naive: every candidate gets score 1; or one of another package."""
    options: PluginOptions = runtime(PluginOptions())
    """Settings of method "vlm", or of a labeller of another package, which are part of the key."""
    answers: Path | None = runtime(None)
    """vlm: SQLite file of this machine's responses, on a local disk. Unset: answers.sqlite in the store, or in this
    machine's copies of a store at a URL."""
    clip: Path | None = file_read(None)
    """clip: folder of a transformers CLIP model."""
    floor: float = Field(0.05, ge=0, le=1)
    """Minimum score of a label; lower-scored labels are not stored."""
    batch_size: int = Field(16, ge=1)
    """Images per pass through the encoder, which changes low-order bits of scores."""
    device: Literal["auto", "cpu", "cuda"] = runtime("auto")
    """Where the labeller runs. cuda: workers take GPUs in turn; auto: GPUs if there are any, else the CPU."""


class TaggerLabellerSettings(LabellerSettings):
    """How candidates are scored, with the settings of the Relation Tagger alone."""

    weights: str | None = file_read(None)
    """A trained tagger to reuse: a weights file, its folder, or a run of the store (`demo`, `demo@2`)."""
    predicates: Literal["pair", "image"] = "pair"
    """Where a predicate is scored. pair: on pairs that captions propose it for; image (authors): all proposed pairs."""
    categories: tuple[str, ...] = ()
    """Object names in every image's list of texts; empty: the tagger's most frequent."""
    category_texts: int = Field(100, ge=0)
    """Number of these names, if `categories` is empty."""
    predicate_texts: int = Field(200, ge=0)
    """Number of the tagger's most frequent predicates in every image's list of texts; the authors use 0."""
    precision: Literal["auto", "float32", "bfloat16"] = "float32"
    """Number format of the tagger. auto: bfloat16 if the device has instructions for it, else float32; the key records
    which."""
    pairs_together: int = Field(1600, ge=1)
    """Maximum number of pairs per pass through the decoders, which bounds memory."""


class Labeller(Protocol):
    """Scores the candidates of images. The labels of an image depend on the image alone."""

    def label(self, images: Sequence[TaggingImage], progress: Callable[[int], None]) -> list[Labels]:
        """The labels of each image, each label once, or the problem with it. `progress` gets the number of images
        done."""
        ...


@dataclass(frozen=True)
class OpenLabeller:
    """A labeller that is ready to use. `digest` identifies its weights, or names a method without weights.

    `image_size`: longest side in pixels of the normalised images that it takes; None: full-size images in [0, 1].
    """

    labeller: Labeller
    digest: str
    image_size: int | None
    stack: Stack


class LabellerPlugin(Plugin):
    """A registered labeller: the files it reads and how to open it. Creating it must be quick."""

    settings: LabellerSettings
    verifies: ClassVar[bool] = True
    """Whether it can give a second opinion: it needs no tagger, and looks at the image."""

    @abstractmethod
    def open(self, taggers: Sequence[Artifact], worker: int) -> list[OpenLabeller]:
        """Loads the labellers in worker `worker`, counted from 0: one for each fold, which take turns by image.

        `taggers`: the Relation Taggers of the recipe. Raises `FatalError` if files can't be used or the GPU is missing.
        """


class Tagger(LabellerPlugin):
    """The Relation Tagger, which only stage `tag` can use."""

    settings: TaggerLabellerSettings
    imports = ("models.relation_tagger",)
    uses_gpu = True
    verifies = False

    def open(self, taggers: Sequence[Artifact], worker: int) -> list[OpenLabeller]:
        """Loads one for each of the taggers."""
        known = [found for tagger in taggers if (found := _calibration(tagger)) is not None]
        calibration = Calibration.mean(known) if known else None
        return [_tagger(self.settings, tagger, calibration, worker) for tagger in taggers]


class Clip(LabellerPlugin):
    """Any CLIP of transformers."""

    version = 2
    imports = ("transformers.models.clip.modeling_clip",)
    uses_gpu = True

    def files(self) -> dict[str, Path]:
        """CLIP's folder."""
        folder = self.settings.clip
        if folder is None or not folder.is_dir():
            raise FatalError(
                f"{self.settings.section}.clip = {folder}: method 'clip' needs a folder with a transformers CLIP model"
            )
        return {"clip": folder}

    def open(self, taggers: Sequence[Artifact], worker: int) -> list[OpenLabeller]:
        """Loads it."""
        from tagger.labelling.clip_labeller import ClipLabeller

        (folder,), settings = self.files().values(), self.settings
        try:
            labeller = ClipLabeller(folder, settings.floor, settings.batch_size, choose_device(settings.device, worker))
        except (OSError, ValueError) as error:
            raise FatalError(f"{settings.section}.clip = {folder}: not a transformers CLIP model ({error})") from error
        return [OpenLabeller(labeller, f"clip {folder.name}", None, Stack())]


class Naive(LabellerPlugin):
    """Every candidate is a label."""

    verifies = False
    way: Way = "naive"
    stack = Stack()

    def open(self, taggers: Sequence[Artifact], worker: int) -> list[OpenLabeller]:
        """Loads nothing."""
        return [OpenLabeller(BlindLabeller(self.way, self.settings.floor), self.way, None, self.stack)]


class Prior(Naive):
    """Each candidate's prior. It is the score, and must not count as a tagger's."""

    way: Way = "prior"
    stack = Stack(tagger=0.0)


def _calibration(tagger: Artifact) -> Calibration | None:
    file = tagger.file(CALIBRATION)
    try:
        return Calibration.from_json(file.read_bytes()) if file.is_file() else None
    except ValueError as error:
        raise FatalError(f"tagger {tagger.key[:12]}: {error}; {_remedy(tagger)}") from error


def _remedy(tagger: Artifact) -> str:
    """What to do about a tagger that can't be used. A removed one would be imported again as it is."""
    is_imported = tagger.folder.parent.name == "import_tagger"
    return "correct the files that tag.weights names" if is_imported else f"remove {tagger.folder} and run again"


def _tagger(
    settings: TaggerLabellerSettings, artifact: Artifact, calibration: Calibration | None, worker: int
) -> OpenLabeller:
    from models.relation_tagger import RelationTagger
    from models.weights import load
    from models.weights_file import WeightsError
    from tagger.labelling.labeller import TaggerLabeller

    assert settings.precision != "auto", "a run plans its settings"
    keep_freed_memory()
    vocabulary = TrainedNames.read(artifact.file(VOCABULARY), REMOVE_ARTIFACT)
    weights = artifact.file(MODEL)
    try:
        tagger = load(weights, artifact.folder)
        if not isinstance(tagger, RelationTagger):
            raise WeightsError(f"contains weights of {type(tagger).__name__}, not of a Relation Tagger")
        labeller = TaggerLabeller(
            tagger.to(choose_device(settings.device, worker)),
            settings.categories or vocabulary.objects[: settings.category_texts],
            vocabulary.predicates[: settings.predicate_texts],
            calibration,
            settings.predicates,
            settings.floor,
            settings.batch_size,
            settings.pairs_together,
            settings.precision,
        )
    except (WeightsError, FloatingPointError, ValueError) as error:
        raise FatalError(f"tagger {artifact.key[:12]}: {error}; {_remedy(artifact)}") from error
    stack = calibration.stack if calibration is not None else Stack()
    return OpenLabeller(labeller, digest_file(weights), vocabulary.image_size, stack)
