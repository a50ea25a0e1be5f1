"""Stage `shard`: packs the bytes and labels of a partition's images into tars, ready for training (docs/shards.md)."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
from PIL import Image
from pydantic import Field, PrivateAttr

from pipeline.data.exclusions import Contaminated, Contamination, ExclusionList, exclusion_files
from pipeline.data.images.folders import locate_image
from pipeline.data.images.opening import BadImage, Probe, decode_image, read_bytes
from pipeline.data.images.perceptual_hash import DEFAULT_DISTANCE, perceptual_hash, probe_and_hash
from pipeline.data.images.refs import UprightImage
from pipeline.labels.kept_labels import UNLIMITED, ChoiceSettings, KeptLabels, judged_labels, naive_labels
from pipeline.labels.label_overrides import OVERRIDES_FILE, Overrides, SettledVerdicts, overrides_table, place_overrides
from pipeline.runtime.logs import log
from pipeline.runtime.settings import data_file, runtime
from pipeline.runtime.stage import Inputs, Output, Rejected, ReportProgress, Stage
from pipeline.stages.split import UNSEEN, unseen_triplets
from pipeline.training.sample import SampleRelation, TrainingSample, strongest
from pipeline.training.vocabulary import STATISTICS_FILE, statistics_of
from storage.digests import digest_bytes
from storage.errors import FatalError
from storage.shards.writer import LABELS, Sample, write_shards
from storage.tables import REJECTED, SHARD_MEMBERS, write_table
from tagger.english.predicates import canonical
from tagger.triplet import NameTriplet

EXCLUDED_FILE = "excluded.parquet"
"""The table of images that a list or a test set contains (schema `REJECTED`)."""
FROM_CAPTIONS = ("pseudo", "naive")
"""Sources of relations that read what stage `tag` wrote."""
_EXTENSIONS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "BMP": "bmp"}
"""Formats whose files are packed as they are, because loaders decode them."""
_VERDICTS = ("labels that reviewers accepted", "labels that reviewers rejected", "verdicts on other boxes")
"""Counts of the verdicts on images of a partition."""
_QUALITY = 95
"""JPEG quality of images that are rotated before packing."""


class ShardSettings(ChoiceSettings):
    """Which labels and images go into the shards. Changing them does not run the tagger again."""

    labels: Literal["pseudo", "naive", "given", "none"] = "pseudo"
    """Source of the relations. pseudo: the tagger; naive: every candidate; given: the ground truth; none: boxes
    only."""
    pack: bool = runtime(False)
    """Pack shards in a recipe without pre-training. A section `[shard]` or `--until shard` turns it on."""
    without_relations: Literal["keep", "drop"] = "keep"
    """Whether to keep images without a relation to train on. They still train boxes, if `self_pairs` is on. Without
    labels (none), all are kept."""
    uncertain: float | None = Field(None, ge=0.0, le=1.0)
    """Minimum confidence of an uncertain pseudo-label, which is below the threshold. If a pair of boxes has only such
    labels, or labels over `max_relations`, it is neither a positive nor a negative example in pre-training. Unset:
    pairs without a kept label are negative."""
    max_bytes: int = Field(2**30, ge=2**20)
    """Maximum size of a tar in bytes. A larger partition gets several tars."""
    exclude: tuple[ExclusionList, ...] = ()
    """Lists of images that must not be trained on, such as a test set."""
    verdicts: Path | None = data_file(None)
    """Folder of reviewers' verdicts (docs/review.md), which override all rules and thresholds. It is read when a run
    starts."""
    near_duplicates: int = Field(DEFAULT_DISTANCE, ge=0, le=16)
    """Images whose perceptual hash differs from that of an image in `data.test` by at most this many of 64 bits are
    excluded."""
    _settled: SettledVerdicts | None = PrivateAttr(None)

    def planned(self) -> ShardSettings:
        """These settings with the verdicts as they are now. Raises `FatalError` when there is no folder of verdicts."""
        if self.verdicts is None or self.labels != "pseudo":
            return self
        made = self.model_copy()
        made._settled = SettledVerdicts.read(self.verdicts)
        return made

    @property
    def settled(self) -> SettledVerdicts | None:
        """The verdicts that count; None without any for these labels. Raises `FatalError` if none were read."""
        if self.verdicts is None or self.labels != "pseudo":
            return None
        return self._settled or SettledVerdicts.read(self.verdicts)


class ShardStage(Stage):
    """Writes tars with an index and statistics. Images without a box are excluded; unreadable images are rejected."""

    name = "shard"
    version = 7
    reads = ("images", "relations")
    writes = "shards"
    schema = SHARD_MEMBERS
    settings: ShardSettings
    _unseen: frozenset[NameTriplet] | None = None

    def row_settings(self) -> dict[str, Any]:
        """Settings that change rows: the choice of labels for pseudo-labels, `max_relations` for any relations."""
        settings = super().row_settings()
        settings["exclude"] = [each.row_settings() for each in self.settings.exclude]
        for name in ("calibration", "uncertain"):
            if settings[name] in ({}, None):
                del settings[name]  # Keys from before this setting stay.
        if self.settings.labels == "pseudo":
            settled = self.settings.settled
            return settings if settled is None else {**settings, "verdicts": settled.digest}
        for name in (*ChoiceSettings.model_fields, "uncertain"):
            if name != "max_relations" or self.settings.labels == "none":
                settings.pop(name, None)
        return settings

    def files(self) -> dict[str, Path]:
        """The lists of images to exclude. Their content decides rows."""
        return exclusion_files(self.settings.exclude)

    def open(self, uses: Inputs) -> None:
        """Reads the lists of images to exclude, the fingerprints of the test sets, and the triplets that must stay
        unseen."""
        known = uses.table("fingerprints") if uses.by_table.get("fingerprints") else None
        self._contamination = Contamination(self.settings.exclude, known, self.settings.near_duplicates)
        if uses.by_table.get("split"):
            self._unseen = unseen_triplets(uses.artifact("split").table("split"))

    def run(self, inputs: Inputs, work: Path, report: ReportProgress) -> Output:
        """Writes the tars of the partition."""
        rows = inputs.table("images").to_pylist()
        packed = _Packed(self.name)
        if self._unseen is not None:
            packed.counts[UNSEEN] = 0
        index = write_shards(work, self._samples(rows, inputs, packed, report), self.settings.max_bytes)
        write_table(statistics_of(index, packed.labels), work / STATISTICS_FILE)
        write_table(pa.Table.from_pylist(packed.excluded, schema=REJECTED), work / EXCLUDED_FILE)
        files = (*dict.fromkeys(index["shard"].to_pylist()), STATISTICS_FILE, EXCLUDED_FILE)
        if packed.overrides is not None:
            write_table(overrides_table(packed.overrides), work / OVERRIDES_FILE)
            files = (*files, OVERRIDES_FILE)
        reasons = Counter(each["reason"] for each in packed.excluded)
        return Output(
            index,
            {name: work / name for name in files},
            packed.rejected,
            rows_in=len(packed.labels) + len(packed.rejected),
            rows_out=len(packed.labels),
            facts={**packed.counts, "images": len(packed.labels), "excluded": dict(sorted(reasons.items()))},
        )

    def audit(self, made: Inputs) -> None:
        """Warns if none of the verdicts is on an image of the run, as before its first review."""
        settled = self.settings.settled
        about = [artifact.manifest.facts.get(name) for artifact in made.artifacts("shards") for name in _VERDICTS]
        if settled is not None and (settled.right or settled.wrong) and not any(about):
            notice = (
                f"shard.verdicts = {self.settings.verdicts}: none of these verdicts is on an image of this run. If you "
                "expected some, image files or ingest.fingerprint have changed since, and with them the images' digests"
            )
            log.warning(notice, extra={"notice": notice})

    def _samples(
        self, rows: Sequence[dict[str, Any]], inputs: Inputs, packed: _Packed, report: ReportProgress
    ) -> Iterator[Sample]:
        """Yields the images to pack, and notes in `packed` what becomes of each."""
        if self.settings.labels in FROM_CAPTIONS:
            self._choose(inputs, packed)
        for done, row in enumerate(rows):
            report(done, len(rows))
            labels = self._labels(row, packed)
            if not labels.boxes:
                packed.counts["without a box"] += 1
            elif not labels.relations and self.settings.without_relations == "drop":
                packed.counts["without a relation"] += 1
            elif (listed := self._contamination.listed(row["dataset"], row["image_id"], row["uri"])) is not None:
                packed.exclude(row, listed)
            else:
                yield from self._sample(row, labels, packed)
        report(len(rows), len(rows))

    def _sample(self, row: dict[str, Any], labels: TrainingSample, packed: _Packed) -> Iterator[Sample]:
        """Yields the image with its labels, unless it is unreadable or also a test image."""
        try:
            place = locate_image(self.image_folders, row)
            stored = read_bytes(place)
            probe, phash = probe_and_hash(stored)
            extension, data = _EXTENSIONS.get(probe.format), stored
            if extension is None or (isinstance(place, UprightImage) and probe.orientation != 1):
                extension, data = _encoded(decode_image(stored, upright=isinstance(place, UprightImage)), probe)
                # The hash of the packed pixels, which may be turned.
                phash = perceptual_hash(data)
        except BadImage as error:
            packed.rejected.append(Rejected(row["image_id"], error.reason, error.value))
            return
        found = self._contamination.find(row["dataset"], row["image_id"], digest_bytes(stored), phash)
        if found is not None:
            packed.exclude(row, found)
            return
        members = {extension: data, LABELS: labels.to_json()}
        sample = Sample(row["dataset"], row["image_id"], members, row["width"], row["height"], phash)
        packed.labels[sample.key] = labels
        packed.counts["relations"] += len(labels.relations)
        # Other sources of labels don't have the setting in their keys.
        if self.settings.labels == "pseudo" and self.settings.uncertain is not None:
            packed.counts["uncertain relations"] += len(labels.uncertain)
        yield sample

    def _labels(self, row: dict[str, Any], packed: _Packed) -> TrainingSample:
        number = row["image_id"]
        relations: Sequence[SampleRelation] = packed.kept.get(number, ())
        unsure: Sequence[SampleRelation] = packed.uncertain.get(number, ())
        if self.settings.labels == "given":
            true = [
                SampleRelation(r["subject"], r["object"], canonical(r["predicate"]), surface=r["predicate"])
                for r in row["relations"]
            ]
            relations = [relation for relation in true if relation.predicate]
        if self._unseen is not None:
            categories = [box["category"] for box in row["boxes"]]
            seen, unsure = (
                [r for r in these if (categories[r.subject], r.predicate, categories[r.object]) not in self._unseen]
                for these in (relations, unsure)
            )
            packed.counts[UNSEEN] += len(relations) - len(seen)
            relations = seen
        if self.settings.labels == "given":
            relations = strongest(relations, self.settings.max_relations)
        return TrainingSample.from_row(row, relations, self.settings.labels, packed.taggers.get(number), unsure)

    def _choose(self, inputs: Inputs, packed: _Packed) -> None:
        """Chooses the labels to train on. Raises `FatalError` when they lack what the settings ask for."""
        tagged = inputs.artifact("relations")
        if self.settings.labels == "naive":
            packed.kept = naive_labels(tagged.table("candidates"), self.settings.max_relations)
            return
        relations, candidates = tagged.table("relations"), tagged.table("candidates")
        packed.taggers = dict(zip(relations["image_id"].to_pylist(), relations["tagger"].to_pylist(), strict=True))
        if (settled := self.settings.settled) is not None:
            packed.override(*place_overrides(settled, inputs.table("images"), relations))
        try:
            packed.kept = kept = judged_labels(relations, candidates, self.settings, packed.overrides).kept()
            if (least := self.settings.uncertain) is not None:
                # Without the limit per image: a label that it leaves out is not evidence against the label.
                lower = self.settings.model_copy(
                    update={"threshold": least, "thresholds": {}, "max_relations": UNLIMITED}
                )
                wider = judged_labels(relations, candidates, lower, packed.overrides).kept()
                packed.uncertain = {n: tuple(r for r in its if r not in kept[n]) for n, its in wider.items()}
        except FatalError as error:
            raise FatalError(f"{inputs.partition}: {error}") from error


def _encoded(image: Image.Image, probe: Probe) -> tuple[str, bytes]:
    """Extension and bytes of an image whose file other loaders would read with different pixels, or not at all."""
    written = io.BytesIO()
    if probe.format == "JPEG":
        image.save(written, "JPEG", quality=_QUALITY, subsampling=0)
        return "jpg", written.getvalue()
    image.save(written, "PNG")
    return "png", written.getvalue()


class ShardTaggerStage(ShardStage):
    """Writes the shards that train the tagger: the images of annotated datasets that have relations.

    It is a separate stage because the tagger comes before stage `shard`, which packs what the tagger labelled.
    """

    name = "shard_tagger"


@dataclass
class _Packed:
    """What the images of a partition are packed with, and what became of them."""

    stage: str
    kept: KeptLabels = field(default_factory=dict)
    uncertain: KeptLabels = field(default_factory=dict)
    taggers: Mapping[int, str | None] = field(default_factory=dict)
    """The labels of each image to train on, the uncertain ones, and the digest of the tagger that scored them."""
    labels: dict[str, TrainingSample] = field(default_factory=dict)
    """The packed ones, by key."""
    rejected: list[Rejected] = field(default_factory=list)
    excluded: list[dict[str, Any]] = field(default_factory=list)
    """Rows of images that must not be trained on (schema `REJECTED`)."""
    counts: Counter[str] = field(
        default_factory=lambda: Counter(dict.fromkeys(("without a box", "without a relation", "relations"), 0))
    )
    overrides: Overrides | None = None
    """What reviewers have settled about the partition's labels; None where no verdicts are read."""

    def override(self, overrides: Overrides, misplaced: int) -> None:
        """Records what reviewers have settled, and how many verdicts concern boxes that the images lack."""
        self.overrides = overrides
        accepted, rejected = (sum(len(getattr(o, side)) for o in overrides.values()) for side in ("right", "wrong"))
        self.counts.update(dict(zip(_VERDICTS, (accepted, rejected, misplaced), strict=True)))

    def exclude(self, row: Mapping[str, Any], found: Contaminated) -> None:
        """Notes an image that must not be trained on."""
        image = {"image_id": row["image_id"], "stage": self.stage}
        self.excluded.append({**image, "reason": found.reason, "value": found.value})
