"""The training set as samples of shards: which belong to it, their labels and their images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.training.config import HELD_OUT, RANGES, SAMPLES, Shard, TrainConfig
from pipeline.training.sample import TrainingSample
from pipeline.training.settings import TaggerSettings
from pipeline.training.vocabulary import STATISTICS_FILE
from storage.artifact import Artifact
from storage.errors import FatalError
from storage.shards.index import ARTIFACT_INDEX
from storage.shards.reader import DamagedSample, RangeCache, SampleReader
from storage.shards.sample_map import Keep, SampleMap, ShardFile, write_sample_map
from storage.shards.writer import LABELS, tars_among
from storage.stream.stream import PREFETCH


def shards_of(artifacts: Iterable[Artifact]) -> list[Shard]:
    """Returns the tars of the artifacts that stage `shard` made."""
    return [
        Shard(
            tar=artifact.location(tar),
            name=tar,
            index=artifact.file(ARTIFACT_INDEX),
            statistics=artifact.file(STATISTICS_FILE),
        )
        for artifact in artifacts
        for tar in tars_among(artifact.manifest.files)
    ]


def map_samples(config: TrainConfig) -> SampleMap:
    """Makes the map of the training set, and for a tagger that of the held-out images, unless they exist."""
    files = [ShardFile(shard.tar, shard.index, shard.name) for shard in config.shards]
    parts: dict[str, Keep | None] = {SAMPLES: None}
    if isinstance(config.settings, TaggerSettings):
        parts = {SAMPLES: partial(_part, config.settings, False), HELD_OUT: partial(_part, config.settings, True)}
    for name, keep in parts.items():
        if not _is_of(config.work / name, files):
            write_sample_map(config.work / name, files, keep)
    return SampleMap(config.work / SAMPLES)


def _is_of(folder: Path, files: Sequence[ShardFile]) -> bool:
    """Whether there is an undamaged map of these tars, which may have moved since it was made."""
    try:
        samples = SampleMap(folder)
        samples.require_whole()
        return samples.tars == [file.tar for file in files]
    except FatalError:
        return False


def _part(settings: TaggerSettings, is_held_out: bool, samples: pa.Table) -> NDArray[np.bool_]:
    """Chooses the samples that are held out, or all others."""
    images = zip(samples["dataset"].to_pylist(), samples["image_id"].to_pylist(), strict=True)
    return np.array([settings.holds_out(*image) == is_held_out for image in images], np.bool_)


def range_cache(config: TrainConfig) -> RangeCache | None:
    """Returns the cache of what is read from a remote store; None for a local one, or if the settings disable it."""
    remote = any("://" in shard.tar for shard in config.shards)
    size = int(config.settings.cache_gib * 2**30)
    return RangeCache(config.work / RANGES, size) if remote and size else None


class ShardSamples:
    """The labels and images of samples, by their number in a map."""

    def __init__(self, samples: SampleMap, cache: RangeCache | None = None, predicate_form: str = "predicate") -> None:
        """`predicate_form`: as in `TrainingSettings`."""
        self.samples = samples
        self._reader, self._predicate_form = SampleReader(samples, cache), predicate_form
        self._is_remote = any("://" in tar for tar in samples.tars)

    def __len__(self) -> int:
        return len(self.samples)

    def require_tars(self) -> None:
        """Raises `FatalError` for a local tar that is missing or too short."""
        self._reader.require_tars()

    def read(self, samples: Sequence[int]) -> list[tuple[TrainingSample, bytes] | DamagedSample]:
        """Returns the labels and the bytes of images, or the damage. Those of a remote store are requested together."""
        if not self._is_remote:
            return [self._read(sample) for sample in samples]
        with ThreadPoolExecutor(PREFETCH) as pool:
            return list(pool.map(self._read, samples))

    def _read(self, sample: int) -> tuple[TrainingSample, bytes] | DamagedSample:
        try:
            members = self._reader.read(sample)
        except DamagedSample as damage:
            return damage
        try:
            labels = TrainingSample.from_json(members.pop(LABELS))
        except FatalError as error:
            tar = self.samples.tars[self.samples.shard(sample)]
            raise FatalError(f"{tar}: {self.samples.key(sample)}: {error}") from error
        (data,) = members.values()
        return labels.worded() if self._predicate_form == "surface" else labels, data
