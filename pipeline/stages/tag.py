"""Stage `tag`: turns triplets into candidate pairs of boxes and scores each (docs/labels.md, Labelling)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from pipeline.data.images.folders import locate_image
from pipeline.data.images.opening import BadImage, read_image
from pipeline.runtime.devices import best_precision, choose_device
from pipeline.runtime.processes import keep_freed_memory
from pipeline.runtime.settings import Settings, file_read, runtime
from pipeline.runtime.stage import Inputs, Output, Rejected, ReportProgress, Resources, Stage, named_files
from pipeline.training.settings import CALIBRATION, fold_of
from storage.artifact import REMOVE_ARTIFACT, Artifact
from storage.digests import digest_file
from storage.errors import FatalError
from storage.json_files import read_json
from storage.tables import CANDIDATES, DROPPED, RELATIONS, write_table
from tagger.box import Box
from tagger.candidates.cooccurrence import cooccurrence_candidates, read_cooccurrence
from tagger.candidates.grounding import ground
from tagger.candidates.official import official_candidates
from tagger.candidates.source import Candidates, CandidateSource
from tagger.labelling.calibration import Calibration, Stack
from tagger.labelling.label_choice import with_probabilities
from tagger.matching import (
    AuthorsFileError,
    NounReader,
    Paraphrases,
    by_substrings,
    by_whole_words,
    by_whole_words_and,
    read_paraphrases,
)
from tagger.parsing.wordings import WORDINGS
from tagger.triplet import Triplet

if TYPE_CHECKING:
    from torch import Tensor

    from tagger.labelling.blind_labeller import BlindLabeller
    from tagger.labelling.clip_labeller import ClipLabeller
    from tagger.labelling.labeller import Labeller
    from tagger.labelling.tagging_image import Labels, Problem, TaggingImage

CANDIDATES_FILE = "candidates.parquet"
DROPPED_FILE = "dropped.parquet"
QUARANTINED = "image in quarantine"
"""Why the triplets of an image that can't be read or scored led to no candidate."""
_NETWORK_MODULES = {"tagger": ("models.relation_tagger",), "clip": ("transformers.models.clip.modeling_clip",)}
"""Method with a network → the modules of the network."""


class CandidateSettings(Settings):
    """How triplets become candidates; other values are for comparison (docs/labels.md, Other ways to candidates)."""

    matching: Literal["words", "official"] = "words"
    """How nouns match categories. words: whole words, from the head noun; official: substrings, as the authors do."""
    paraphrases: Path | None = file_read(None)
    """JSON file of phrases by category, in the authors' format. With matching "words" they join the built-in
    synonyms, with "official" they replace them."""
    wording: Literal["canonical", "full", "official"] = "canonical"
    """Predicate wording. canonical: "in front of"; full: "stand in front of"; official: like the authors' parser."""
    enumeration: Literal["mentions", "official"] = "mentions"
    """How pairs are listed. mentions: as alternatives of a mention; official (authors): all ordered pairs as facts."""
    overlap: bool = False
    """Whether only pairs of boxes that intersect become candidates."""
    cooccurrence: Path | None = file_read(None)
    """JSON file of predicates by category pair (authors' format) that replaces captions; its content is in the key."""

    @model_validator(mode="after")
    def _captions_or_not(self) -> CandidateSettings:
        ways = (self.matching, self.wording, self.enumeration) != ("words", "canonical", "mentions")
        if self.cooccurrence is not None and (ways or self.paraphrases is not None):
            raise ValueError("cooccurrence: reads no captions; remove matching, paraphrases, wording, enumeration")
        return self


class LabellerSettings(Settings):
    """How candidates are scored."""

    method: Literal["tagger", "clip", "prior", "naive"] = "tagger"
    """What scores candidates. tagger: the Relation Tagger; clip: a CLIP model that compares the box around both boxes
    with words; prior: each candidate's prior, from boxes and names alone; naive: every candidate gets score 1."""
    weights: str | None = file_read(None)
    """A trained tagger to reuse instead of training one: a weights file, a folder with one, or a run of the store
    (`demo`, `demo@2`). Its content is part of the key."""
    clip: Path | None = file_read(None)
    """Folder of a transformers CLIP model for method "clip"; its content is part of the key."""
    predicates: Literal["pair", "image"] = "pair"
    """Where a predicate is scored. pair: on pairs that captions propose it for; image (authors): all proposed pairs."""
    floor: float = Field(0.05, ge=0, le=1)
    """Minimum score of a label; lower-scored labels are not stored."""
    categories: tuple[str, ...] = ()
    """Object names in every image's list of texts, e.g. the dataset's categories; empty: the tagger's most frequent."""
    category_texts: int = Field(100, ge=0)
    """Number of the tagger's most frequent object names in every image's list of texts, if `categories` is empty."""
    predicate_texts: int = Field(200, ge=0)
    """Number of the tagger's most frequent predicates added to every image's list of texts; the authors use 0."""
    precision: Literal["auto", "float32", "bfloat16"] = "float32"
    """Floating-point format of the tagger. auto: bfloat16 if the device has instructions for it, else float32; the key
    holds which."""
    batch_size: int = Field(16, ge=1)
    """Images per pass through the encoder. It changes the last bits of scores, so it is part of the key."""
    pairs_together: int = Field(1600, ge=1)
    """Maximum number of box pairs per pass through the decoders, which bounds memory. It is part of the key, too."""
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


class TagSettings(CandidateSettings, LabellerSettings):
    """Where candidates come from and how they are scored. Section `shard` chooses the labels to train on."""


class TagStage(Stage):
    """Makes the scored relations of one partition.

    `candidates.parquet` holds every pair considered, `dropped.parquet` every triplet that led to none, with the reason.

    The texts that a score depends on are the same for every image, except for its own categories and predicates.
    """

    name = "tag"
    version = 10
    reads = ("images", "triplets")
    uses = ("tagger",)
    writes = "relations"
    loads = "the tagger"
    schema = RELATIONS
    settings: TagSettings

    def weights(self) -> dict[str, Path]:
        """The dictionaries and tables that decide candidates, and CLIP's folder for method "clip"."""
        settings: TagSettings = self.settings
        named = {"paraphrases": settings.paraphrases, "cooccurrence": settings.cooccurrence}
        return named_files("tag", named) | settings.clip_files()

    def imports(self) -> tuple[str, ...]:
        """Returns the module of the labeller's network."""
        return _NETWORK_MODULES.get(self.settings.method, ())

    def resources(self) -> Resources:
        """What one worker takes of its machine. Only the tagger and CLIP use a GPU."""
        on_gpus = self.settings.method in _NETWORK_MODULES
        return Resources.on(self.settings.device if on_gpus else "cpu", self.weights().values())

    def open(self, uses: Inputs) -> None:
        """Load the source of candidates and the labeller. Raises `FatalError` when one cannot be used."""
        self._candidates = open_candidates(self.settings)
        self._open = open_labellers(self.settings, uses.by_table.get("tagger", ()), self.worker)

    def run(self, inputs: Inputs, work: Path, report: ReportProgress) -> Output:
        """Score the partition's candidates; images that cannot be read or scored go to quarantine."""
        rows = inputs.table("images").to_pylist()
        captioned = {row["image_id"]: row["triplets"] for row in inputs.table("triplets").to_pylist()}
        known = sorted({box["category"] for row in rows for box in row["boxes"]}.union(self.settings.categories))
        proposed = [self._propose(row, captioned.get(row["image_id"], []), known) for row in rows]
        opened = [self._open[fold_of(row["dataset"], row["image_id"], len(self._open))] for row in rows]
        images = [self._image(*each) for each in zip(rows, proposed, opened, strict=True)]
        labels = self._label(images, opened, lambda done: report(done, len(rows)))
        report(len(rows), len(rows))
        rejected = [
            Rejected(row["image_id"], one.problem.reason, one.problem.value)
            for row, one in zip(rows, labels, strict=True)
            if one.problem
        ]
        kept = [_Labelled(*each) for each in zip(rows, images, labels, opened, strict=True) if not each[2].problem]
        relations = [
            {"image_id": one.row["image_id"], "tagger": one.opened.digest, "relations": one.relations(captioned)}
            for one in kept
        ]
        pairs = [{"image_id": one.row["image_id"], "pairs": [asdict(p) for p in one.image.pairs]} for one in kept]
        write_table(pa.Table.from_pylist(pairs, schema=CANDIDATES), work / CANDIDATES_FILE)
        lost = _dropped(rows, proposed, captioned, {reject.image_id for reject in rejected})
        write_table(pa.Table.from_pylist(lost, schema=DROPPED), work / DROPPED_FILE)
        facts = {
            "triplets dropped": len(lost),
            "candidates": sum(len(image.pairs) for image in images),
            "images without candidates": sum(not image.pairs for image in images),
            "relations": sum(len(row["relations"]) for row in relations),
        }
        table = pa.Table.from_pylist(relations, schema=RELATIONS)
        files = {name: work / name for name in (CANDIDATES_FILE, DROPPED_FILE)}
        return Output(table, files, rejected, rows_in=len(rows), facts=facts)

    def _propose(
        self, row: Mapping[str, Any], triplets: Sequence[Mapping[str, Any]], known: Collection[str]
    ) -> Candidates:
        captions = [values["caption"] for values in triplets]
        return self._candidates([_triplet(values) for values in triplets], _boxes(row), captions, known)

    def _label(
        self, images: Sequence[TaggingImage], opened: Sequence[OpenLabeller], progress: Callable[[int], None]
    ) -> list[Labels]:
        """Labels each image with its labeller."""
        found: dict[int, Labels] = {}
        for each in self._open:
            own, before = [place for place, chosen in enumerate(opened) if chosen is each], len(found)
            labels = each.labeller.label([images[place] for place in own], lambda done: progress(before + done))  # noqa: B023
            found |= dict(zip(own, labels, strict=True))
        return [found[place] for place in range(len(images))]

    def _image(self, row: dict[str, Any], proposed: Candidates, opened: OpenLabeller) -> TaggingImage:
        import torch

        from pipeline.data.images.views import to_pixels, view_size
        from tagger.labelling.tagging_image import Problem, TaggingImage

        size = opened.image_size
        width, height = (row["width"], row["height"]) if size is None else view_size(row["width"], row["height"], size)

        def load() -> Tensor | Problem:
            try:
                image = read_image(locate_image(self.image_folders, row))
                if size is None:
                    return torch.from_numpy(np.asarray(image, np.float32).transpose(2, 0, 1) / np.float32(255))
                return to_pixels(image, size)
            except BadImage as bad:
                return Problem(bad.reason, bad.value)

        return TaggingImage(row["width"], row["height"], _boxes(row), proposed.pairs, (height, width), load)


class _Labelled(NamedTuple):
    """A labelled image."""

    row: dict[str, Any]
    image: TaggingImage
    labels: Labels
    opened: OpenLabeller

    def relations(self, captioned: Mapping[int, Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
        """The image's relations as rows, each with its probability and the caption of its triplet."""
        triplets = captioned.get(self.row["image_id"], [])
        return [
            asdict(relation) | {"caption": triplets[relation.triplet]["caption"] if relation.proposed else -1}
            for relation in with_probabilities(self.labels.relations, self.image.pairs, self.opened.stack)
        ]


def _boxes(row: Mapping[str, Any]) -> list[Box]:
    return [Box(b["category"], b["x"], b["y"], b["w"], b["h"], b["crowd"]) for b in row["boxes"]]


def _dropped(
    rows: Sequence[Mapping[str, Any]],
    proposed: Sequence[Candidates],
    captioned: Mapping[int, Sequence[Mapping[str, Any]]],
    quarantined: Collection[int],
) -> list[dict[str, Any]]:
    """The triplets that led to no candidate, as rows. Those of a quarantined image were not considered at all."""
    dropped: list[dict[str, Any]] = []
    for row, candidates in zip(rows, proposed, strict=True):
        image_id = row["image_id"]
        if image_id in quarantined:
            numbers = range(len(captioned.get(image_id, ())))
            dropped += [{"image_id": image_id, "triplet": n, "reason": QUARANTINED, "value": ""} for n in numbers]
        else:
            dropped += [{"image_id": image_id, **each._asdict()} for each in candidates.dropped]
    return dropped


def _triplet(values: Mapping[str, Any]) -> Triplet:
    return Triplet(**{name: value for name, value in values.items() if name != "caption"})


def open_candidates(settings: CandidateSettings) -> CandidateSource:
    """Open the source that the settings name. Raises `FatalError` when a file cannot be used."""
    try:
        if settings.cooccurrence is not None:
            table = read_cooccurrence(settings.cooccurrence)
            return partial(cooccurrence_candidates, table=table, overlapping=settings.overlap)
        paraphrases = read_paraphrases(settings.paraphrases) if settings.paraphrases is not None else {}
    except AuthorsFileError as error:
        raise FatalError(f"tag: {error}") from error
    return partial(
        official_candidates if settings.enumeration == "official" else ground,
        nouns=noun_reader(settings, paraphrases),
        wording=WORDINGS[settings.wording],
        overlapping=settings.overlap,
    )


def noun_reader(settings: CandidateSettings, paraphrases: Paraphrases) -> NounReader:
    """The function that matches nouns to categories."""
    if settings.matching == "official":
        return by_substrings(paraphrases)
    return by_whole_words_and(paraphrases) if paraphrases else by_whole_words


@dataclass(frozen=True)
class OpenLabeller:
    """A labeller that is ready to use. `digest` identifies its weights, or names a method without weights.

    `image_size`: longest side in pixels of the normalised images that it takes; None: full-size images in [0, 1].
    """

    labeller: Labeller | ClipLabeller | BlindLabeller
    digest: str
    image_size: int | None
    stack: Stack


def open_labellers(settings: LabellerSettings, taggers: Sequence[Artifact], worker: int = 0) -> list[OpenLabeller]:
    """Load a labeller for each of the taggers, which only method "tagger" needs, for worker number `worker`.

    Raises `FatalError` if weights do not fit, belong to another network or are not finite, or if the GPU is missing.
    """
    if settings.method == "tagger":
        found = [_calibration(tagger) for tagger in taggers]
        known = [each for each in found if each is not None]
        calibration = Calibration.mean(known) if known else None
        return [_tagger(settings, tagger, calibration, worker) for tagger in taggers]
    if settings.method == "clip":
        return [_clip(settings, worker)]
    from tagger.labelling.blind_labeller import BlindLabeller

    # The score of method "prior" is the prior itself, which must not count as a tagger's.
    stack = Stack(tagger=0.0) if settings.method == "prior" else Stack()
    return [OpenLabeller(BlindLabeller(settings.method, settings.floor), settings.method, None, stack)]


def _calibration(tagger: Artifact) -> Calibration | None:
    file = tagger.file(CALIBRATION)
    try:
        return Calibration.from_json(file.read_bytes()) if file.is_file() else None
    except ValueError as error:
        raise FatalError(f"tagger {tagger.key[:12]}: {error}; remove {tagger.folder} and run again") from error


def _tagger(
    settings: LabellerSettings, artifact: Artifact, calibration: Calibration | None, worker: int
) -> OpenLabeller:
    from models.relation_tagger import RelationTagger
    from models.weights import load
    from models.weights_file import WeightsError
    from tagger.labelling.labeller import Labeller

    assert settings.precision != "auto", "a run plans its settings"
    keep_freed_memory()
    vocabulary = read_json(artifact.file("vocabulary.json"), dict[str, Any], REMOVE_ARTIFACT)
    weights = artifact.file("model.safetensors")
    try:
        tagger = load(weights, artifact.folder)
        if not isinstance(tagger, RelationTagger):
            raise WeightsError(f"holds weights of {type(tagger).__name__}, not of a Relation Tagger")
        labeller = Labeller(
            tagger.to(choose_device(settings.device, worker)),
            settings.categories or vocabulary["objects"][: settings.category_texts],
            vocabulary["predicates"][: settings.predicate_texts],
            calibration,
            settings.predicates,
            settings.floor,
            settings.batch_size,
            settings.pairs_together,
            settings.precision,
        )
    except (WeightsError, FloatingPointError, ValueError) as error:
        raise FatalError(f"tagger {artifact.key[:12]}: {error}; remove {artifact.folder} and run again") from error
    stack = calibration.stack if calibration is not None else Stack()
    return OpenLabeller(labeller, digest_file(weights), vocabulary["image_size"], stack)


def _clip(settings: LabellerSettings, worker: int) -> OpenLabeller:
    from tagger.labelling.clip_labeller import ClipLabeller

    (folder,) = settings.clip_files().values()
    try:
        labeller = ClipLabeller(folder, settings.floor, settings.batch_size, choose_device(settings.device, worker))
    except (OSError, ValueError) as error:
        raise FatalError(f"tag.clip = {folder}: not a transformers CLIP model ({error})") from error
    return OpenLabeller(labeller, f"clip {folder.name}", None, Stack())
