"""Stage `overlap`: finds training images that are also test images, and refuses to train on them.

It covers the images that a training run reads and those that its pretrained weights were trained on, which the records
of runs in a store reveal.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from pipeline.data.exclusions import NEAR_DUPLICATE, SAME_BYTES, SAME_ID
from pipeline.data.images.perceptual_hash import DEFAULT_DISTANCE, near_duplicates
from pipeline.runtime.logs import log
from pipeline.runtime.settings import Settings, runtime
from pipeline.runtime.stage import Inputs, Output, ReportProgress, Stage
from pipeline.stages.pretrain import PretrainStage
from pipeline.training.config import MODEL
from storage.artifact import Artifact
from storage.digests import digest_file
from storage.errors import FatalError
from storage.open_store import existing_store
from storage.shards.index import ARTIFACT_INDEX
from storage.store import Store
from storage.tables import OVERLAP, read_table

SHOWN = 3
"""Number of overlaps that an error names."""
INITIAL = "initial weights: "
"""Prefix of the dataset of an image that the pretrained weights were trained on."""
_COLUMNS = ["dataset", "image_id", "digest", "phash"]
_HOW = (SAME_BYTES, SAME_ID, NEAR_DUPLICATE)


class OverlapSettings(Settings):
    """Which images count as equal, and whether to refuse training on test images."""

    distance: int = Field(DEFAULT_DISTANCE, ge=0, le=16)
    """Maximum number of bits in which the perceptual hashes of near-duplicates differ."""
    allow: bool = runtime(False)
    """Whether to train on test images anyway. Scores on them then say nothing about new images."""
    pretrained: Path | None = runtime(None)
    """Weights that training starts from; filled in from `pretrain.settings.pretrained`."""
    store: str = runtime("")
    """Address of the store that may contain their training run."""


class OverlapStage(Stage):
    """Compares a variant's images in shards and those behind its pretrained weights with all test sets."""

    name = "overlap"
    version = 1
    reads = ("shards", "fingerprints")
    writes = "overlap"
    schema = OVERLAP
    whole = True
    settings: OverlapSettings

    def files(self) -> dict[str, Path]:
        """The pretrained weights, and the tables of the images they were trained on, since both decide rows."""
        known = self.pretraining_images()
        if known is None or self.settings.pretrained is None:
            return {}
        tables = {f"initial shards {number}": path for number, path in enumerate(known.shards)}
        return {"initial": self.settings.pretrained, **tables}

    def pretraining_images(self) -> TrainedImages | None:
        """What is known of the images behind the pretrained weights; None without such weights."""
        path = self.settings.pretrained
        # `pretrain` itself refuses missing weights.
        return TrainedImages.of(path, self.settings.store) if path is not None and path.is_file() else None

    def run(self, inputs: Inputs, work: Path, report: ReportProgress) -> Output:
        """List every training image with every test image that it equals."""
        trained = pa.concat_tables([_images(artifact.table("shards")) for artifact in inputs.artifacts("shards")])
        tests = inputs.table("fingerprints")
        rows = list(_overlaps(trained, tests, self.settings.distance))
        facts: dict[str, Any] = {"images": len(trained), "test images": len(tests)}
        known = self.pretraining_images()
        if known is not None:
            seen = [_marked(_images(read_table(path))) for path in known.shards]
            # The empty slice has the columns where there are no shards.
            before = pa.concat_tables([trained.slice(0, 0), *seen])
            rows += _overlaps(before, tests, self.settings.distance)
            facts["images behind the pretrained weights"] = len(before)
            if known.unknown:
                facts["not compared"] = known.unknown
                log.warning(
                    "images behind the pretrained weights are not known", extra={"fields": {"why": known.unknown}}
                )
        table = pa.Table.from_pylist(rows, schema=OVERLAP)
        counted = Counter(table["how"].to_pylist())
        facts |= {how: counted[how] for how in _HOW}
        return Output(table, rows_in=len(trained), rows_out=len(trained), facts=facts)

    def audit(self, made: Inputs) -> None:
        """Refuse training images that are test images, unless allowed. Raises `FatalError`."""
        found = made.table("overlap").to_pylist()
        if not found or self.settings.allow:
            return
        images = {(row["dataset"], row["test_dataset"], row["image_id"]) for row in found}
        by_set = Counter((dataset, test) for dataset, test, _ in images)
        counts = ", ".join(f"{count} of {dataset} in {test}" for (dataset, test), count in sorted(by_set.items()))
        first = ", ".join(_in_words(row) for row in found[:SHOWN])
        way = "Exclude them with `exclude` or `near_duplicates` in [shard]"
        if any(row["dataset"].startswith(INITIAL) for row in found):
            way = (
                "The weights in pretrain.settings.pretrained have seen some of them: start from weights trained with "
                "these datasets in data.test, or with their images in [shard] `exclude`"
            )
        raise FatalError(
            f"training images are also test images: {counts}; first {first}. {way}, or set "
            "pretrain.allow_overlap = true if the scores need not be of unseen images"
        )


def _images(members: pa.Table) -> pa.Table:
    """The images among the members of shards."""
    return members.filter(pc.not_equal(members["extension"], "json")).select(_COLUMNS)


def _marked(images: pa.Table) -> pa.Table:
    """The same images, marked as another run's. Its dataset of the same name may be a different one."""
    names = pc.binary_join_element_wise(INITIAL, images["dataset"], "")
    return images.set_column(0, "dataset", names)


def _overlaps(trained: pa.Table, tests: pa.Table, distance: int) -> Iterator[dict[str, Any]]:
    """Rows of the overlap table, in the order of the training images. Each pair appears once, by its strictest match.

    An image id is meaningful only within a dataset: datasets number their images independently.
    """
    found = {pair: (NEAR_DUPLICATE, bits) for pair, bits in _near(trained, tests, distance).items()}
    own, others = (table.append_column("place", pa.array(range(len(table)), pa.int64())) for table in (trained, tests))
    for how, keys in ((SAME_ID, ["dataset", "image_id"]), (SAME_BYTES, ["digest"])):
        columns = [*keys, "place"]
        pairs = own.select(columns).join(others.select(columns), keys, join_type="inner", right_suffix=" in tests")
        places = (pairs[name].to_pylist() for name in ("place", "place in tests"))
        found |= dict.fromkeys(zip(*places, strict=True), (how, None))
    test_images = tests.select(["dataset", "image_id"]).to_pylist()
    for (place, test), (how, bits) in sorted(found.items()):
        (image,), other = trained.slice(place, 1).to_pylist(), test_images[test]
        yield {
            "dataset": image["dataset"],
            "image_id": image["image_id"],
            "test_dataset": other["dataset"],
            "test_image_id": other["image_id"],
            "how": how,
            "distance": bits,
        }


def _near(trained: pa.Table, tests: pa.Table, distance: int) -> dict[tuple[int, int], int | None]:
    """Places of a training and a test image → number of bits where their hashes differ."""
    images, others = (np.flatnonzero(table["phash"].is_valid()) for table in (trained, tests))
    hashes, other_hashes = (table["phash"].drop_null().to_numpy() for table in (trained, tests))
    near = near_duplicates(hashes, other_hashes, distance)
    return {(int(images[i]), int(others[j])): bits for i, j, bits in near}


def _in_words(row: dict[str, Any]) -> str:
    distance = f" at distance {row['distance']}" if row["distance"] is not None else ""
    return f"{row['dataset']}/{row['image_id']} = {row['test_dataset']}/{row['test_image_id']} ({row['how']}{distance})"


@dataclass(frozen=True)
class TrainedImages:
    """The shards that weights were trained on, including those of the weights that training started from."""

    shards: tuple[Path, ...]
    """Tables `shards` of the artifacts, with each image's SHA-256 and perceptual hash."""
    unknown: str = ""
    """Why some images are unknown; "" if all are known."""

    @classmethod
    def of(cls, weights: Path, address: str) -> TrainedImages:
        """Looks a weights file up by its content, in the store at `address` and in the store that contains the file.

        A copy of a run's weights is found anywhere, as long as a store has the run's artifacts.
        """
        stores = list(_stores(weights, address))
        digest = _digest(weights, weights.stat().st_size, weights.stat().st_mtime_ns)
        shards: dict[Path, None] = {}
        followed: set[str] = set()
        while digest not in followed:
            followed.add(digest)
            made = _made(stores, digest)
            if made is None:
                what = f"{weights} is" if not shards else f"{weights} began with weights that are"
                return cls(tuple(shards), f"{what} of no training run in the store")
            store, artifact = made
            for key in artifact.manifest.upstream.get("shards", ()):
                packed = store.find("shard", key)
                if packed is None:
                    return cls(
                        tuple(shards), f"shard {key[:12]}, which {weights} was trained on, is missing from the store"
                    )
                shards[packed.file(ARTIFACT_INDEX)] = None
            earlier = artifact.manifest.terms.get("weights", {}).get("initial")
            if earlier is None:
                return cls(tuple(shards))
            digest = earlier
        return cls(tuple(shards))  # a training run that changed nothing


def _stores(weights: Path, address: str) -> Iterator[Store]:
    """The stores that may have made the weights. An address without a store has none."""
    folder = weights.resolve().parent
    places = [address] if address else []
    if folder.parent.name == PretrainStage.name and folder.parents[1].name == "artifacts":
        places.append(str(folder.parents[2]))
    for place in dict.fromkeys(places):
        try:
            yield existing_store(place)
        except FatalError:
            continue


def _made(stores: list[Store], digest: str) -> tuple[Store, Artifact] | None:
    """The training run whose weights have this digest, and its store."""
    for store in stores:
        for artifact in store.artifacts(PretrainStage.name):
            entry = artifact.manifest.files.get(MODEL)
            if entry is not None and entry.digest == digest:
                return store, artifact
    return None


# Size and time are parameters for the cache alone, so that a file that was replaced is read again.
@lru_cache(maxsize=8)
def _digest(path: Path, size: int, changed: int) -> str:
    return digest_file(path)
