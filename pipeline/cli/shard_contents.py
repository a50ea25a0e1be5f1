"""Counts what the samples of tars contain and lack."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipeline.data.images.opening import LOOSEST_LIMITS, BadImage, probe_bytes
from pipeline.interop.shard_samples import MAX_LABELS_SIZE, TarSample, read_labels, read_member, tar_samples
from storage.shards.index import Progress
from storage.shards.scan import Refused


@dataclass
class Contents:
    """The contents of one or more tars."""

    samples: int = 0
    bytes: int = 0
    extensions: Counter[str] = field(default_factory=Counter)
    formats: Counter[str] = field(default_factory=Counter)
    """Image formats by content, and reasons why images are unusable."""
    refused: Counter[str] = field(default_factory=Counter)
    images: int = 0
    labels: int = 0
    """Number of samples with labels in this project's format."""
    lacking: Counter[str] = field(default_factory=Counter)
    """Number of samples without an image ("image") and without labels ("labels")."""
    boxes: int = 0
    relations: int = 0
    categories: Counter[str] = field(default_factory=Counter)
    predicates: Counter[str] = field(default_factory=Counter)

    def add(self, other: Contents) -> None:
        """Adds the contents of another tar."""
        for name, value in vars(other).items():
            if isinstance(value, Counter):
                getattr(self, name).update(value)
            else:
                setattr(self, name, getattr(self, name) + value)

    def gaps(self) -> list[str]:
        """Says how many samples lack what others have."""
        gaps = []
        if self.images and self.lacking["image"]:
            gaps.append(f"{_samples(self.lacking['image'])} an image")
        if self.labels and self.lacking["labels"]:
            gaps.append(f"{_samples(self.lacking['labels'])} labels")
        return gaps

    def as_json(self) -> dict[str, Any]:
        """The contents as JSON values, most frequent names first."""
        plain = asdict(self)
        return {n: dict(getattr(self, n).most_common()) if isinstance(v, Counter) else v for n, v in plain.items()}


def contents_of(tar: Path, report: Progress) -> tuple[Contents, list[Refused]]:
    """Reads the contents of a tar, and where it is damaged."""
    contents, damaged = Contents(bytes=tar.stat().st_size if tar.is_file() else 0), []
    samples = tar_samples(tar)
    # Before the tar is opened here, so that `tar_samples` says what is wrong with a path.
    entry = next(samples, None)
    with tar.open("rb") as file:
        while entry is not None:
            if isinstance(entry, TarSample):
                _count(contents, entry, file.fileno())
                report(entry.members[-1].offset, contents.bytes)
            elif entry.damaged:
                damaged.append(entry)
            else:
                contents.refused[entry.reason] += 1
            entry = next(samples, None)
    return contents, damaged


def _count(contents: Contents, sample: TarSample, descriptor: int) -> None:
    contents.samples += 1
    contents.extensions.update(member.extension for member in sample.members)
    image, labels = sample.image(), sample.labels()
    if image is None:
        contents.lacking["image"] += 1
    else:
        contents.images += 1
        contents.formats[_format(read_member(descriptor, image, LOOSEST_LIMITS.max_bytes))] += 1
    data = read_member(descriptor, labels, MAX_LABELS_SIZE) if labels is not None else None
    seen = read_labels(data) if data is not None else None
    if seen is None:
        contents.lacking["labels"] += 1
        return
    contents.labels += 1
    contents.boxes += len(seen.boxes)
    contents.relations += len(seen.relations)
    contents.categories.update(box.category for box in seen.boxes)
    contents.predicates.update(relation.predicate for relation in seen.relations)


def _format(data: bytes | None) -> str:
    if data is None:
        return "not usable: too large"
    try:
        return probe_bytes(data, verify="header").format
    except BadImage as bad:
        return f"not usable: {bad.reason}"


def gaps_of(tar: Path) -> list[str]:
    """Says how many samples lack an image or labels that others in the tar have, judging by names only."""
    contents = Contents()
    for sample in tar_samples(tar):
        if isinstance(sample, TarSample):
            has_image, has_labels = sample.image() is not None, sample.labels() is not None
            contents.images += has_image
            contents.labels += has_labels
            contents.lacking.update(image=not has_image, labels=not has_labels)
    return contents.gaps()


def _samples(count: int) -> str:
    return "1 sample lacks" if count == 1 else f"{count:,} samples lack"
