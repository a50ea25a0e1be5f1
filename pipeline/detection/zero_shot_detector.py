"""Zero-shot detectors of transformers, which look for any names: Grounding DINO, OWL-ViT and OWLv2.

Shapes: B images, Q queries, T tokens, N names.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from PIL import Image

from pipeline.detection.settings import DetectSettings
from pipeline.detection.transformers_detector import load_model, to_detections
from pipeline.detection.weights_files import DetectorFiles
from pipeline.evaluation.detection import Detections
from pipeline.runtime.devices import choose_device
from storage.errors import FatalError


class ZeroShotDetector:
    """A model of `AutoModelForZeroShotObjectDetection`, from a local folder, and the names that it looks for."""

    def __init__(self, files: DetectorFiles, settings: DetectSettings, worker: int) -> None:
        """Raises `FatalError` without names, or when the folder holds no such model, or a damaged one."""
        from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor

        folder, names = files.place, settings.categories
        if not names:
            raise FatalError(f"detector {folder}: needs names to look for; set detect.categories, e.g. person, bicycle")
        self._device, self._batch, self.names = choose_device(settings.device, worker), settings.batch_size, names
        models = AutoModelForZeroShotObjectDetection
        self._processor, self._model = load_model(folder, AutoProcessor, models, self._device)
        self._is_grounded = "grounding-dino" in self._model.config.model_type

    @torch.inference_mode()
    def detect(self, images: Sequence[Image.Image], threshold: float) -> list[Detections]:
        """Finds the boxes of images."""
        found = []
        for start in range(0, len(images), self._batch):
            chosen = list(images[start : start + self._batch])
            found += self._grounded(chosen) if self._is_grounded else self._queried(chosen, threshold)
        return found

    def _queried(self, images: list[Image.Image], threshold: float) -> list[Detections]:
        """OWL-ViT and OWLv2 score each name separately."""
        text = [list(self.names)] * len(images)
        inputs = self._processor(text=text, images=images, return_tensors="pt", truncation=True)
        outputs = self._model(**inputs.to(self._device))
        sizes = [(image.height, image.width) for image in images]
        results = self._processor.post_process_grounded_object_detection(outputs, threshold, target_sizes=sizes)
        return [to_detections(result) for result in results]

    def _grounded(self, images: list[Image.Image]) -> list[Detections]:
        """Grounding DINO scores the tokens of one sentence of names. A box has the name of its best token."""
        parts: list[list[Detections]] = [[] for _ in images]
        for first, text, spans in self._sentences():
            # One image per pass: others would pad it.
            for image, found in zip(images, parts, strict=True):
                inputs = self._processor(text=text, images=image, return_tensors="pt").to(self._device)
                outputs = self._model(**inputs)
                scores_QT = outputs.logits[0].sigmoid().cpu()
                scores_QN = torch.stack([scores_QT[:, start:end].amax(dim=1) for start, end in spans], dim=1)
                scores, labels = scores_QN.max(dim=1)
                x, y, w, h = (outputs.pred_boxes[0].cpu() * torch.tensor([image.width, image.height] * 2)).unbind(1)
                boxes = torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], dim=1)
                result = {"boxes": boxes, "scores": scores, "labels": labels + first}
                found.append(to_detections(result))
        return [_joined(found) for found in parts]

    def _sentences(self) -> Iterator[tuple[int, str, list[tuple[int, int]]]]:
        """Yields sentences that fit the text encoder: the place of the first name, the text, and each name's tokens."""
        most = self._model.config.max_text_len
        tokenizer = self._processor.tokenizer
        spans: list[tuple[int, int]] = []
        first, sentence, tokens = 0, "", 1  # a token opens the sentence, another closes it
        for place, name in enumerate(self.names):
            count = len(tokenizer(name.lower(), add_special_tokens=False)["input_ids"])
            if count + 3 > most:
                raise FatalError(f"detect.categories: {name!r} exceeds the detector's limit of {most} tokens")
            if tokens + count + 2 > most:
                yield first, sentence.strip(), spans
                first, sentence, spans, tokens = place, "", [], 1
            sentence += f"{name.lower()}. "
            spans.append((tokens, tokens + count))
            tokens += count + 1
        yield first, sentence.strip(), spans


def _joined(parts: Sequence[Detections]) -> Detections:
    scores = [part.scores for part in parts if part.scores is not None]
    boxes, labels = (np.concatenate([getattr(part, name) for part in parts]) for name in ("boxes", "labels"))
    return Detections(boxes, labels, np.concatenate(scores))
