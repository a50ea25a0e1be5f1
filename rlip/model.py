"""Pre-trained weights as a model that finds boxes and relations in images, and the scores of what it finds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image

from pipeline.cli.evaluate import Evaluation as Evaluation, score
from pipeline.cli.predict import (
    drawable,
    label_names,
    open_network,
    relations_above,
    trained_names,
    warn_if_turned,
    weights_path,
)
from pipeline.data.images.opening import as_rgb, read_image
from pipeline.evaluation.detections.table import DetectionsWriter
from pipeline.evaluation.predictor import Names, Predictor
from pipeline.interop.shard_samples import SeenLabels
from pipeline.labels.label_rows import LABELS
from pipeline.report.formatting import sanitise
from pipeline.runtime.settings import expanded
from rlip.arguments import checked
from rlip.notebook import Drawable
from storage.errors import FatalError

RELATIONS = (
    pa.schema([LABELS.field(name) for name in LABELS.names if name.startswith(("subject_", "object_"))])
    .append(LABELS.field("predicate"))
    .append(LABELS.field("score"))
)


@checked
def load(
    weights: str | Path, *, tokenizer: str | Path | None = None, image_size: int | None = None, device: str = "auto"
) -> Model:
    """Loads weights of this project: a file, its folder, or sample weights such as "demo-detector".

    `tokenizer`: folder of the tokenizer, for weights without one next to them. `image_size`: longest side of input
    images in pixels; by default that used in training, or 1067. `device`: auto, cpu, cuda or cuda:1; on a GPU, this
    turns TF32 off for the convolutions of the whole process.
    """
    return Model(weights_path(weights), None if tokenizer is None else Path(tokenizer), image_size, device)


class Model:
    """A network. `objects` and `predicates` are the names used in training; any others can replace them."""

    def __init__(self, weights: Path, tokenizer: Path | None, image_size: int | None, device: str) -> None:
        known = trained_names(weights)
        known.warn_if_boxes_alone()
        self.objects, self.predicates = tuple(known.objects), tuple(known.predicates)
        network = open_network(weights, tokenizer, device)

        @lru_cache(maxsize=4)
        def predictor(names: Names, subject: str | None, assume_subject: bool) -> Predictor:
            size = known.image_size if image_size is None else image_size
            return Predictor(network, names, size, subject=subject, assume_subject=assume_subject, per_image=None)

        self._predictor = predictor

    def predict(
        self,
        image: str | Path | Image.Image | npt.NDArray[np.uint8],
        objects: str | Sequence[str] | None = None,
        predicates: str | Sequence[str] | None = None,
        *,
        subject: str | None = None,
        assume_subject: bool = False,
        per_image: int = 100,
        threshold: float = 0.0,
    ) -> Prediction:
        """Finds boxes and relations in an image, as `rlip predict` does.

        `image`: a file, a Pillow image, or an array (height, width, 3) in RGB. `objects`, `predicates`: any names, as a
        list, separated by commas or as @FILE; by default those used in training. `subject`: required name of subjects.
        `assume_subject`: give every subject that name and exclude none, as for weights fine-tuned by RLIPv2's authors.
        `per_image`: number of relations to keep. `threshold`: minimum score of a box or relation.
        """
        if not 0 <= threshold <= 1 or per_image < 0:
            raise FatalError(
                f"threshold = {threshold}, per_image = {per_image}: give a score from 0 to 1, and at least 0 relations"
            )
        names = Names(
            label_names("objects", objects, self.objects), label_names("predicates", predicates, self.predicates)
        )
        opened, uri = _read(image), str(image) if isinstance(image, str | Path) else "image"
        warn_if_turned(opened)
        (found,) = self._predictor(names, subject, assume_subject).predict([opened], batch=1)
        return Prediction(opened, uri, relations_above(found.unique(per_image).row(names), threshold))

    def __repr__(self) -> str:
        return f"Model(objects={self.objects}, predicates={self.predicates})"


class Prediction(Drawable):
    """The boxes and relations found in an image.

    `row` is a row of the table `detections`: boxes with category and score, and pairs of them with predicate and score.
    """

    def __init__(self, image: Image.Image, uri: str, found: Mapping[str, Any]) -> None:
        self._image, self.title = image, sanitise(Path(uri).name, 60)
        self.row = {"image_id": None, "uri": uri, "width": image.width, "height": image.height, **found}

    def relations(self) -> pa.Table:
        """One row for each relation, best first: both boxes in pixels, predicate and score."""
        boxes, pairs = self.row["boxes"], self.row["pairs"]
        columns = [(end, name) for end in ("subject", "object") for name in ("category", *"xywh")]
        rows = [pair | {f"{end}_{name}": boxes[pair[end]][name] for end, name in columns} for pair in pairs]
        return pa.Table.from_pylist(rows, schema=RELATIONS)

    @property
    def image(self) -> Image.Image:
        """The image in RGB."""
        return self._image

    def seen(self, top: int) -> SeenLabels:
        """The `top` best relations with their boxes, and all confident boxes."""
        return drawable(self.row, self.image.width, top)

    def __repr__(self) -> str:
        return f"Prediction({self.title!r}, {len(self.row['boxes'])} boxes, {len(self.row['pairs'])} relations)"


def _read(image: Any) -> Image.Image:
    try:
        if isinstance(image, str | Path):
            return read_image(Path(expanded(image)))
        return as_rgb(image if isinstance(image, Image.Image) else Image.fromarray(image))
    except Exception as bad:  # decoders may raise anything on hostile bytes
        raise FatalError(f"{str(image)[:200]}: can't be read as one image ({bad})") from bad


_score: Callable[..., Evaluation] = checked(score)


def evaluate(
    predictions: str | Path | Prediction | Iterable[str | Path] | Iterable[Prediction],
    *,
    benchmark: str,
    annotations: str | Path,
    **options: Any,
) -> Evaluation:
    """Scores predictions, or a detections file from any source, by the rules of a public benchmark.

    Several files are compared with the first. `benchmark`: its name in `rlip evaluate`, e.g. hico-det. `annotations`:
    its ground truth. `options`: as in `rlip evaluate`, e.g. split and known_object; `--file` is files, a list, and
    `--report` is report_folder.
    """
    given = [predictions] if isinstance(predictions, str | Path | Prediction) else list(predictions)
    with TemporaryDirectory(prefix="rlip-evaluate-") as folder:
        files = [each for each in given if not isinstance(each, Prediction)]
        if found := [each for each in given if isinstance(each, Prediction)]:
            files.append(Path(folder, "predictions.parquet"))
            with DetectionsWriter(Path(folder, "predictions.parquet")) as writer:
                for prediction in found:
                    writer.write(prediction.row)
        return _score(benchmark=benchmark, ground_truth=annotations, detections=files, **options)
