"""Any transformers object detector with fixed class names: RT-DETR, D-FINE, DETR, Deformable DETR and similar ones.

Shapes: B images.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from pipeline.data.images.views import passes
from pipeline.detection.settings import DetectSettings
from pipeline.detection.weights_files import DetectorFiles
from pipeline.evaluation.detection import Detections
from pipeline.runtime.devices import choose_device
from storage.errors import FatalError, first_line


class TransformersDetector:
    """A model of `AutoModelForObjectDetection` with its image processor, from a local folder."""

    def __init__(self, files: DetectorFiles, settings: DetectSettings, worker: int) -> None:
        """Raises `FatalError` when the folder holds no model for object detection, or a damaged one."""
        from transformers import AutoImageProcessor, AutoModelForObjectDetection

        self._device, self._batch = choose_device(settings.device, worker), settings.batch_size
        classes = AutoImageProcessor, AutoModelForObjectDetection
        self._processor, self._model = load_model(files.place, *classes, self._device)
        labels: dict[int, str] = self._model.config.id2label
        # Numbers may have gaps, as COCO's ids have.
        self.names = tuple(labels.get(number, "") for number in range(max(labels, default=-1) + 1))

    @torch.inference_mode()
    def detect(self, images: Sequence[Image.Image], threshold: float) -> list[Detections]:
        """Finds the boxes of images. Images that the processor scales to one size share a pass, so none is padded."""
        pixels = [self._processor(images=image, return_tensors="pt")["pixel_values"] for image in images]
        detections: dict[int, Detections] = {}
        for chosen in passes(pixels, self._batch):
            outputs = self._model(pixel_values=torch.cat([pixels[each] for each in chosen]).to(self._device))
            sizes_B2 = torch.tensor([(images[each].height, images[each].width) for each in chosen])
            results = self._processor.post_process_object_detection(
                outputs, threshold=threshold, target_sizes=sizes_B2.to(self._device)
            )
            detections |= {each: to_detections(result) for each, result in zip(chosen, results, strict=True)}
        return [detections[position] for position in range(len(images))]


def load_model(folder: Path, processors: Any, models: Any, device: torch.device) -> tuple[Any, Any]:
    """Loads a processor and a model, ready to use, by these classes of transformers. Raises `FatalError`."""
    try:
        processor = processors.from_pretrained(folder, local_files_only=True)
        model, loading = models.from_pretrained(folder, local_files_only=True, output_loading_info=True)
        if missing := sorted(loading["missing_keys"]):  # transformers draws them at random
            raise ValueError(f"it lacks {missing[:3]}")
        return processor, model.to(device).eval()
    except Exception as error:  # a faulty folder shows as any kind of error
        raise FatalError(
            f"detector {folder}: transformers can't load it for object detection ({first_line(error)}); name a folder "
            "of RT-DETR, D-FINE, DETR, Deformable DETR, Grounding DINO, OWL-ViT or OWLv2 (setting: detect.weights)"
        ) from error


def to_detections(result: dict[str, torch.Tensor]) -> Detections:
    """Converts boxes, labels and scores of one image."""
    boxes, scores = (result[name].float().cpu().numpy().astype(np.float64) for name in ("boxes", "scores"))
    return Detections(boxes.reshape(-1, 4), result["labels"].cpu().numpy().astype(np.int64), scores)
