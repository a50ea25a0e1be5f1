"""The training set: samples from tar shards or `images` tables, and the decoded examples of each step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import torch

from pipeline.data.images.folders import locate_image
from pipeline.data.images.opening import BadImage, read_bytes
from pipeline.data.images.views import load_pixels, random_view
from pipeline.training.sample import SampleRelation, TrainingSample, mirrored
from pipeline.training.sampler import Place, StepSampler, stable_seed
from pipeline.training.settings import TrainingSettings
from storage.errors import FatalError
from storage.shards import ShardReader
from storage.tables import read_table
from tagger.english.predicates import canonical


class SampleSource(Protocol):
    """Samples by position. A source must be picklable, because each loader process gets its own copy."""

    def __len__(self) -> int: ...

    def labels(self, position: int) -> TrainingSample:
        """Returns the labels of one image."""
        ...

    def image(self, position: int) -> bytes:
        """Returns the bytes of its file."""
        ...


class ShardSource:
    """Samples of tar shards, in the order of the shards and of the files in each tar."""

    def __init__(self, shards: Sequence[tuple[Path, Path]]) -> None:
        """`shards`: pairs of a tar and its index table."""
        self._shards = [(Path(tar), read_table(Path(index))) for tar, index in shards]
        ids = [index["image_id"].unique().to_numpy() for _, index in self._shards]
        self._shard_of = np.repeat(np.arange(len(ids), dtype=np.int32), [len(i) for i in ids])
        self._ids = np.concatenate(ids) if ids else np.zeros(0, np.int64)
        self._readers: dict[int, ShardReader] = {}

    def __len__(self) -> int:
        return len(self._ids)

    def labels(self, position: int) -> TrainingSample:
        """Returns the labels of one image. Raises `FatalError` when they are damaged."""
        return TrainingSample.from_json(self._members(position)["json"])

    def image(self, position: int) -> bytes:
        """Returns the bytes of its file."""
        (data,) = (data for extension, data in self._members(position).items() if extension != "json")
        return data

    def _members(self, position: int) -> Mapping[str, bytes]:
        shard = int(self._shard_of[position])
        if shard not in self._readers:
            self._readers[shard] = ShardReader(*self._shards[shard])
        return self._readers[shard].read(int(self._ids[position])).members

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_readers": {}}


class ImageSource:
    """Samples of the images in `images` tables that have relations. Their files are in the folders of the data sets."""

    def __init__(self, tables: Sequence[Path], folders: Mapping[str, Path | str]) -> None:
        every = pa.concat_tables([read_table(path) for path in tables])
        related = [row for row, relations in enumerate(every["relations"]) if len(relations)]
        self._table = every.take(related).combine_chunks()
        self._folders = dict(folders)

    def __len__(self) -> int:
        return len(self._table)

    def split(self, held_out: float) -> tuple[list[int], list[int]]:
        """Splits positions into kept and held-out ones by a hash of data set and image id, stable when images are added."""
        names, ids = self._table["dataset"].to_pylist(), self._table["image_id"].to_pylist()
        shares = [stable_seed("held out", name, number) / 2**63 for name, number in zip(names, ids, strict=True)]
        kept = [position for position, share in enumerate(shares) if share >= held_out]
        return kept, [position for position, share in enumerate(shares) if share < held_out]

    def labels(self, position: int) -> TrainingSample:
        """Returns the labels of one image: the relations of the data set with canonical predicates."""
        row = self._row(position)
        relations = [
            SampleRelation(relation["subject"], relation["object"], predicate)
            for relation in row["relations"]
            if (predicate := canonical(relation["predicate"]))
        ]
        return TrainingSample.from_row(row, relations)

    def image(self, position: int) -> bytes:
        """Returns the bytes of its file. Raises `FatalError` when it can no longer be read."""
        row = self._row(position)
        folder = self._folders[row["dataset"]]
        try:
            return read_bytes(locate_image(self._folders, row))
        except BadImage as error:
            raise FatalError(f"{folder}/{row['uri']}: {error}, but it was readable at ingest; restore it") from error

    def _row(self, position: int) -> dict[str, Any]:
        (row,) = self._table.slice(position, 1).to_pylist()
        return dict(row)


class Subset:
    """A source restricted to some positions of another source."""

    def __init__(self, source: SampleSource, positions: Sequence[int]) -> None:
        self._source = source
        self._positions = list(positions)

    def __len__(self) -> int:
        return len(self._positions)

    def labels(self, position: int) -> TrainingSample:
        """Returns the labels of one image."""
        return self._source.labels(self._positions[position])

    def image(self, position: int) -> bytes:
        """Returns the bytes of its file."""
        return self._source.image(self._positions[position])


@dataclass(frozen=True)
class Example:
    """One image as a step sees it: pixels 3×H×W and labels, both mirrored when the view is."""

    pixels: torch.Tensor
    sample: TrainingSample


class StepDataset(torch.utils.data.Dataset[list[Example]]):
    """Maps a step to its examples for this process. It is map-style, so that loader processes can share the work."""

    def __init__(
        self, source: SampleSource, sampler: StepSampler, settings: TrainingSettings, rank: int, ranks: int
    ) -> None:
        self._source, self._sampler, self._settings = source, sampler, settings
        self._rank, self._ranks = rank, ranks

    def __getitem__(self, step: int) -> list[Example]:
        return [self._example(place) for place in self._sampler.step(step, self._rank, self._ranks)]

    def _example(self, place: Place) -> Example:
        sample = self._source.labels(place.position)
        settings = self._settings
        generator = np.random.default_rng(stable_seed("view", settings.seed, place.epoch, sample.image_id))
        view = random_view(generator, settings.image_size, settings.smallest, settings.flip, settings.colour)
        try:
            pixels = load_pixels(self._source.image(place.position), view)
        except BadImage as error:
            raise FatalError(
                f"image {sample.image_id} of {sample.dataset}: {error}, but the file was readable at ingest; "
                "restore it, or remove the artifact that holds it and run again"
            ) from error
        return Example(pixels, mirrored(sample) if view.mirrored else sample)
