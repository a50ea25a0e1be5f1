"""Captions made elsewhere: by people, by the authors' scripts, or by another captioner.

A file is one of:
* COCO captions, an object with `annotations`: [{image_id, caption}, ...];
* the authors' layout, an object {image id: [caption, ...]};
* a list of {image_id, caption} or of {image_id, one caption or a list of them by model name, ...};
* Parquet with the schema of the captions table, or as `rlip export --format parquet` writes it.
"""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

from pipeline.captioning.captioner import Caption, ImageInput
from pipeline.captioning.settings import KINDS, CaptionSettings
from pipeline.data.datasets.annotations import NO_IMAGE, as_id, as_object, parse_json, shown
from pipeline.runtime.stage import Rejected
from storage.errors import FatalError
from storage.tables import CAPTIONS, read_table

_ROWS_AT_ONCE = 10_000
LONGEST_TEXT = 2000
"""Maximum length of a caption in characters."""
EXPECTED = (
    "COCO captions JSON, a JSON object {image id: [captions]}, a JSON list of {image_id, caption}, "
    "or Parquet of the captions table"
)


_Stated = tuple[Any, Any, Caption]
"""Image id and text as a file states them, and what else it states of the caption."""


class RecordedCaptioner:
    """Looks up the captions that files hold for an image, in file order; there may be none."""

    needs_images = False
    side = None

    def __init__(self, settings: CaptionSettings) -> None:
        self._captions: dict[int, list[Caption]] = defaultdict(list)
        self._of = settings.of
        self._names: dict[int, set[str]] = {}
        """Image id → the file names that the files of captions state."""
        self.rejects: list[Rejected] = []
        """Captions that failed validation: not text, empty, too long, or without an image id."""
        for path in settings.recorded:
            for image_id, text, caption in _read(path, self._names):
                self._add(image_id, text, caption)

    def caption(self, images: Sequence[ImageInput], image_ids: Sequence[int]) -> list[list[Caption]]:
        """The captions of each image id; `images` is ignored and may be empty."""
        return [list(self._captions.get(image_id, ())) for image_id in image_ids]

    def image_ids(self) -> frozenset[int]:
        """The ids of images that have captions, so that a caller can find missing ones."""
        return frozenset(self._captions)

    def require_fit(self, datasets: Mapping[str, Iterable[tuple[int, str]]]) -> None:
        """Check that the captions belong to images of these datasets. `datasets`: name → image ids with their files.

        Raises `FatalError` if an id that has captions stands for different images, or if no id is that of an image.
        """
        first: dict[int, tuple[str, str]] = {}
        fit = False
        for dataset, images in datasets.items():
            for image_id, name in images:
                if image_id not in self._captions:
                    continue
                fit = True
                where, other = first.setdefault(image_id, (f"dataset {dataset}", name))
                # Folders of two datasets may each have a 1.jpg.
                fits = name == other or (_stem(name) != _stem(other) and _may_be_one(name, other))
                for stated in sorted(self._names.get(image_id, ())) if fits else ():
                    if not _may_be_one(name, stated):
                        where, other, fits = "the captions", stated, False
                if not fits:
                    raise FatalError(
                        f"caption.recorded: image {image_id} is {other} in {where}, and {name} in dataset {dataset}, "
                        "so captions would go to other images; give images the ids that the captions use, and images "
                        "of different datasets different ids"
                    )
        if not fit:
            reasons = Counter(reject.reason for reject in self.rejects)
            listed = ", ".join(f"{reason}: {number}" for reason, number in reasons.most_common())
            raise FatalError(
                "caption.recorded: none of the captions belongs to a labelled image "
                f"({listed or 'their ids are of other images'}); expected the ids of the datasets' images in {EXPECTED}"
            )

    def _add(self, stated_id: Any, stated: Any, caption: Caption) -> None:
        image_id = as_id(stated_id)
        # Existing captions with the same key may have been made when text below 0 was no id.
        if image_id is None or (image_id < 0 and isinstance(stated_id, str)):
            self.rejects.append(Rejected(NO_IMAGE, "caption without image id", shown(stated_id)))
            return
        if not isinstance(stated, str):
            self.rejects.append(Rejected(image_id, "caption not text", shown(stated)))
            return
        count = len(caption.boxes or ())
        if (kind := dict(enumerate(KINDS)).get(count, f"{count} boxes")) not in self._of:
            self.rejects.append(Rejected(image_id, f"caption.of lacks {kind!r}", stated[:200]))
            return
        text = clean(stated)
        if not text or len(text) > LONGEST_TEXT:
            self.rejects.append(Rejected(image_id, "caption too long" if text else "caption empty", text[:200]))
            return
        captions = self._captions[image_id]
        captions.append(caption._replace(text=text, draw=len(captions)))


def _read(path: Path, names: dict[int, set[str]]) -> Iterator[_Stated]:
    """The captions of one file. Adds the file names of its images to `names`.

    Raises `FatalError` when it is missing or holds something else.
    """
    if not path.is_file():
        raise FatalError(f"{path}: no such file (setting: recorded); expected {EXPECTED}")
    if path.suffix == ".parquet":
        yield from _from_parquet(path)
        return
    try:
        content = parse_json(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise FatalError(f"{path}: can't be read as JSON ({error}); expected {EXPECTED}") from error
    for image in map(as_object, rows) if isinstance(rows := as_object(content).get("images"), list) else ():
        image_id, name = as_id(image.get("id")), image.get("file_name")
        if image_id is not None and isinstance(name, str):
            names.setdefault(image_id, set()).add(name)
    yield from _from_json(content, path)


def _may_be_one(file: str, other: str) -> bool:
    """Whether two names of files may be those of one image."""
    one, two = _stem(file), _stem(other)
    # COCO named its images COCO_train2014_000000000009.jpg before it named them 000000000009.jpg.
    return one.endswith(two) or two.endswith(one)


def _stem(file: str) -> str:
    return PurePosixPath(file).stem.lower()


def _from_json(content: Any, path: Path) -> Iterator[_Stated]:
    if isinstance(content, dict) and isinstance(content.get("annotations"), list):
        yield from _from_rows(content["annotations"], path, only_caption=True)
    elif isinstance(content, dict):
        for image_id, texts in content.items():
            yield from ((image_id, text, _of(path.stem)) for text in _listed(texts))
    elif isinstance(content, list):
        yield from _from_rows(content, path, only_caption=False)
    else:
        raise FatalError(f"{path}: is neither a JSON object nor a list; expected {EXPECTED}")


_OF_IMAGE = frozenset((
    "image_id", "id", "file_name", "width", "height", "dataset", "split", "url", "coco_url", "flickr_url", "license",
    "date_captured",
))  # fmt: skip
"""Fields of a row that hold no captions."""


def _from_rows(rows: list[Any], path: Path, only_caption: bool) -> Iterator[_Stated]:
    for row in rows:
        if not isinstance(row, dict):
            yield row, None, _of(path.stem)
        elif only_caption or "caption" in row:
            yield row.get("image_id"), row.get("caption"), _of(path.stem)
        else:
            for model, texts in row.items():
                if model not in _OF_IMAGE:
                    yield from ((row.get("image_id"), text, _of(model)) for text in _listed(texts))


def _from_parquet(path: Path) -> Iterator[_Stated]:
    try:
        table = read_table(path)
        if is_export := "partition" in table.column_names:
            table = table.drop_columns("partition")
        table = table.cast(CAPTIONS)
        if is_export and len(table["image_id"].unique()) < len(table):
            raise ValueError("images of two datasets have one id; keep only the rows of one dataset")
    except (pa.ArrowException, OSError, ValueError) as error:
        raise FatalError(f"{path}: not a captions table ({error}); expected {EXPECTED}") from error
    # As Python objects, the rows of a large file take several times the memory of the captions that are kept.
    rows = (row for batch in table.to_batches(max_chunksize=_ROWS_AT_ONCE) for row in batch.to_pylist())
    for row in rows:
        for caption in row["captions"] or ():
            stated = caption | {"source": caption["source"] or path.stem, "times": caption["times"] or 1}
            boxes = caption["boxes"] and tuple(caption["boxes"])
            yield row["image_id"], caption["text"], Caption(**stated | {"boxes": boxes})


def _of(source: str) -> Caption:
    """What is known of a caption besides its text."""
    return Caption("", 0, None, None, source)


def _listed(texts: Any) -> list[Any]:
    return texts if isinstance(texts, list) else [texts]


def clean(text: str) -> str:
    """The text with single blanks, without control and other invisible characters."""
    if text.isprintable():  # fast path: almost all of millions of captions
        return " ".join(text.split())
    spaced = (" " if unicodedata.category(c) == "Cc" else c for c in text)
    return " ".join("".join(c for c in spaced if not unicodedata.category(c).startswith("C")).split())
