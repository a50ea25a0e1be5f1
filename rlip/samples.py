"""Samples of WebDataset tars as a stream that any number of ranks shares and that resumes anywhere (docs/shards.md)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipeline.runtime.settings import expanded
from storage.digests import digest_json
from storage.errors import FatalError
from storage.open_store import cache_folder
from storage.shards.index import ARTIFACT_INDEX, index_path
from storage.shards.sample_map import SampleMap, ShardFile, write_sample_map
from storage.stream.stream import Stream


def stream(
    shards: str | Path | Iterable[str | Path], *, seed: int = 0, epoch: int = 0, epochs: int | None = 1, **options: Any
) -> Stream:
    """The samples of tars in random order: {"__key__": ..., "__url__": ..., "jpg": b"...", "json": b"..."}.

    `shards`: tars, or a folder with tars, e.g. from `rlip shards publish`; each needs an index next to it (`rlip shards
    index`). `epoch`: the first epoch; `epochs`: how many, None for no end. `options`: batch, rank, ranks and others of
    `Stream`, a dataset for torch's DataLoader; its `batches()` yields whole batches.
    """
    listed = expanded([shards] if isinstance(shards, str | Path) else list(shards))
    paths = [Path(path).absolute() for path in listed]  # the map of samples, which other folders share, names the tars
    tars = [tar for path in paths for tar in (sorted(path.rglob("[!.]*.tar")) if path.is_dir() else [path])]
    if not tars:
        raise FatalError(f"{shards}: contains no tar; name a folder of shards, or tars")
    samples, end = _sample_map(tars), None if epochs is None else epoch + epochs
    return Stream(samples, seed=seed, first=epoch * len(samples), epochs=end, **options)


def _sample_map(tars: list[Path]) -> SampleMap:
    """The map of all samples, which is kept in the user's cache folder."""
    indexes = [own if (own := index_path(tar)).is_file() else tar.with_name(ARTIFACT_INDEX) for tar in tars]
    places = [[str(tar), *_stamp(index)] for tar, index in zip(tars, indexes, strict=True)]
    folder = cache_folder() / "samples" / digest_json([2, *places])[:32]
    if folder.is_dir():
        samples = SampleMap(folder)
        samples.require_whole()
        return samples
    files = [ShardFile(str(tar), index) for tar, index in zip(tars, indexes, strict=True)]
    return write_sample_map(folder, files, replace=False)  # a faster rank may be reading its own


def _stamp(index: Path) -> list[int]:
    if not index.is_file():
        raise FatalError(
            f"{index.parent}: no index next to the tars; create it with `rlip shards index {index.parent}/*.tar`"
        )
    status = index.stat()
    return [status.st_size, status.st_mtime_ns]
