"""Labels with CLIP instead of a tagger: does the rectangle around both boxes look like the relation?

Shapes: N candidates, T texts, D feature width, H×W pixels. Selected by `tag.method`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoTokenizer, CLIPImageProcessor, CLIPModel

from tagger.labelling.labeller import CACHE_LIMIT
from tagger.labelling.posteriors import scored_labels
from tagger.labelling.tagging_image import Labels, Problem, TaggingImage
from tagger.pair import Pair

SHARPNESS = 100.0
"""Scale of the cosines in the softmax, as in the training of the released CLIP models."""


class ClipLabeller:
    """Labels with any CLIP model of transformers, from a folder with its weights, tokenizer and image processor.

    Images must load as values in [0, 1]; they may have any size.
    """

    def __init__(
        self, folder: Path, floor: float, crops_together: int = 64, device: torch.device | None = None
    ) -> None:
        """Raises OSError or ValueError when the folder holds no CLIP model."""
        loaded: Any = CLIPModel.from_pretrained(folder, local_files_only=True, output_loading_info=True)
        self._model: CLIPModel = loaded[0]
        if missing := sorted(loaded[1]["missing_keys"]):  # they would be random
            raise ValueError(f"it lacks {missing[:3]}")
        self._model.train(False).to(device or torch.device("cpu"))
        self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self._processor = CLIPImageProcessor.from_pretrained(folder, local_files_only=True)
        self._floor, self._together = floor, crops_together
        self._text_feature = lru_cache(CACHE_LIMIT)(self._encoded)

    def label(
        self, images: Sequence[TaggingImage], progress: Callable[[int], None] = lambda done: None
    ) -> list[Labels]:
        """Returns the labels of each image; a score is CLIP's probability of the relation against its absence."""
        labels = []
        for done, image in enumerate(images, start=1):
            labels.append(self._label(image) if image.pairs else Labels())
            progress(done)
        return labels

    @torch.inference_mode()
    def _label(self, image: TaggingImage) -> Labels:
        pixels = image.load()
        if isinstance(pixels, Problem):
            return Labels(problem=pixels)
        crops = [_union(image, subject, object_, pixels) for subject, object_ in image.ends]
        features = dict(zip(image.ends, self._crop_features(crops), strict=True))
        scores: dict[tuple[int, str, int], float] = {}
        # Several mentions may propose a label, which is scored once.
        for label, pair in {(p.subject, p.predicate, p.object): p for p in image.pairs}.items():
            related, unrelated = (self._text_feature(text) for text in _texts(image, pair))
            cosines = torch.stack((related, unrelated)) @ features[pair.subject, pair.object]
            scores[label] = float((SHARPNESS * cosines).softmax(0)[0])
        return Labels([one for one in scored_labels(image.pairs, scores).values() if one.score >= self._floor])

    def _crop_features(self, crops: Sequence[Tensor]) -> Tensor:
        """Returns N×D, the unit features of the crops."""
        rows = []
        for start in range(0, len(crops), self._together):
            batch = list(crops[start : start + self._together])
            # Not rescaled, since pixels are already in [0, 1]
            pixels = self._processor(images=batch, return_tensors="pt", do_rescale=False)["pixel_values"]
            output = self._model.vision_model(pixel_values=pixels.to(self._model.device))
            rows.append(F.normalize(self._model.visual_projection(output.pooler_output), dim=-1))
        return torch.cat(rows)

    def _encoded(self, text: str) -> Tensor:
        """Returns D, the unit feature of a text."""
        config: Any = self._model.config
        longest = config.text_config.max_position_embeddings
        tokens = self._tokenizer([text], return_tensors="pt", truncation=True, max_length=longest)
        output = self._model.text_model(**{name: value.to(self._model.device) for name, value in tokens.items()})
        return F.normalize(self._model.text_projection(output.pooler_output)[0], dim=-1)


def _texts(image: TaggingImage, pair: Pair) -> tuple[str, str]:
    subject, object_ = image.boxes[pair.subject].category, image.boxes[pair.object].category
    return (
        f"a photo of {subject} {pair.predicate} {object_}",
        f"a photo of {subject} having no relation with {object_}",
    )


def _union(image: TaggingImage, subject: int, object_: int, pixels: Tensor) -> Tensor:
    """Crops 3×H×W pixels to the rectangle around both boxes, at least one pixel."""
    height, width = pixels.shape[1:]
    boxes = [image.boxes[subject], image.boxes[object_]]
    left, top = min(box.x for box in boxes), min(box.y for box in boxes)
    right, bottom = max(box.x + box.w for box in boxes), max(box.y + box.h for box in boxes)
    columns = _span(left * width / image.width, right * width / image.width, width)
    rows = _span(top * height / image.height, bottom * height / image.height, height)
    return pixels[:, slice(*rows), slice(*columns)]


def _span(low: float, high: float, size: int) -> tuple[int, int]:
    start = min(max(int(low), 0), size - 1)
    return start, min(max(round(high), start + 1), size)
