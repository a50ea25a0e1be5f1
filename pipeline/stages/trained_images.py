"""Finds the images that given weights were trained on, by the records of the training runs that made them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from pipeline.training.config import MODEL
from storage.artifact import Artifact
from storage.digests import digest_file
from storage.errors import FatalError
from storage.open_store import existing_store
from storage.shards.index import ARTIFACT_INDEX
from storage.store import Store

STAGE = "pretrain"


@dataclass(frozen=True)
class TrainedImages:
    """The shards that weights were trained on, those of the weights that they started from included."""

    shards: tuple[Path, ...]
    """Tables `shards` of the artifacts, which have an image's sha256 and perceptual hash."""
    unknown: str = ""
    """Why some images are not known, in words; "" if all are."""

    @classmethod
    def of(cls, weights: Path, address: str) -> TrainedImages:
        """Looks a weights file up by its content: in the store at `address`, and in the store that the file itself lies in.

        A copy of a run's weights is found wherever it lies, as long as a store has the run's artifacts.
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
                return cls(tuple(shards), f"{what} of no training in the store")
            store, artifact = made
            for key in artifact.manifest.upstream.get("shards", ()):
                packed = store.find("shard", key)
                if packed is None:
                    return cls(
                        tuple(shards), f"shard {key[:12]}, which {weights} was trained on, is gone from the store"
                    )
                shards[packed.file(ARTIFACT_INDEX)] = None
            earlier = artifact.manifest.terms.get("weights", {}).get("initial")
            if earlier is None:
                return cls(tuple(shards))
            digest = earlier
        return cls(tuple(shards))  # a training run that changed nothing


def _stores(weights: Path, address: str) -> Iterator[Store]:
    """The stores that may have made the weights. An address without a store yet has none."""
    folder = weights.resolve().parent
    places = [address] if address else []
    if folder.parent.name == STAGE and folder.parents[1].name == "artifacts":
        places.append(str(folder.parents[2]))
    for place in dict.fromkeys(places):
        try:
            yield existing_store(place)
        except FatalError:
            continue


def _made(stores: list[Store], digest: str) -> tuple[Store, Artifact] | None:
    """The training that made the weights with this digest, and its store."""
    for store in stores:
        for artifact in store.artifacts(STAGE):
            entry = artifact.manifest.files.get(MODEL)
            if entry is not None and entry.digest == digest:
                return store, artifact
    return None


@lru_cache(maxsize=8)
def _digest(path: Path, size: int, changed: int) -> str:
    return digest_file(path)
