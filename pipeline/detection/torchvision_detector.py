"""torchvision's detectors (Faster R-CNN, RetinaNet, FCOS, SSD), from the weights files that torchvision publishes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from models.torch_file import read_torch_file
from models.weights_file import WeightsError
from pipeline.detection.settings import DetectSettings
from pipeline.detection.transformers_detector import to_detections
from pipeline.detection.weights_files import WITHOUT_EPSILON, DetectorFiles
from pipeline.evaluation.detection import Detections
from pipeline.runtime.devices import choose_device
from storage.errors import FatalError, first_line

_NO_NAMES = frozenset({"__background__", "N/A"})


class TorchvisionDetector:
    """A detector of torchvision. Its file keeps the name that torchvision gives it, which identifies the network."""

    def __init__(self, files: DetectorFiles, settings: DetectSettings, worker: int) -> None:
        """Raises `FatalError` when the name stands for no network, or the file does not hold its weights."""
        from torchvision.models import get_model, get_model_weights

        path, self._device = files.place, choose_device(settings.device, worker)
        kind = _network(path)
        (published,) = list(get_model_weights(kind))
        names: list[str] = published.meta["categories"]
        try:
            state = read_torch_file(path)
            # By default, torchvision downloads the backbone's weights.
            model = get_model(kind, weights=None, weights_backbone=None, num_classes=len(names))
            model.load_state_dict(state)
        except (OSError, RuntimeError, TypeError, AttributeError, WeightsError) as error:
            raise FatalError(
                f"detector {path}: not the weights of torchvision's {kind} ({first_line(error)})"
            ) from error
        if path.name.startswith(WITHOUT_EPSILON):  # as torchvision does when it downloads them
            for module in model.modules():
                if isinstance(module, torch.nn.BatchNorm2d):
                    module.eps = 0.0
        self._model = model.to(self._device).eval()
        # Its own limits must not exclude boxes that the settings keep.
        limits = getattr(self._model, "roi_heads", self._model)
        limits.score_thresh = min(limits.score_thresh, settings.threshold)
        limits.nms_thresh = max(limits.nms_thresh, settings.duplicates)
        limits.detections_per_img = max(limits.detections_per_img, settings.max_boxes)
        self.names = tuple("" if name in _NO_NAMES else name for name in names)

    @torch.inference_mode()
    def detect(self, images: Sequence[Image.Image], threshold: float) -> list[Detections]:
        """Finds the boxes of images, one image per pass: torchvision pads the images of a batch to one size."""
        detections = []
        for image in images:
            pixels_3HW = torch.from_numpy(np.asarray(image, np.float32).transpose(2, 0, 1) / np.float32(255))
            (result,) = self._model([pixels_3HW.to(self._device)])
            detections.append(to_detections(result))
        return detections


def _network(path: Path) -> str:
    """The network that a file's name identifies: ssd300_vgg16_coco-b556d3b4.pth → ssd300_vgg16."""
    from torchvision.models import detection, list_models

    known: list[str] = [name for name in list_models(detection) if "keypoint" not in name]
    fitting = [name for name in known if path.name.startswith(f"{name}_coco")]
    if not fitting:
        raise FatalError(
            f"detector {path}: its name identifies no detector of torchvision ({', '.join(sorted(known))}); keep the "
            "name that the file was downloaded with, e.g. fasterrcnn_resnet50_fpn_v2_coco-dd69338a.pth"
        )
    return max(fitting, key=len)
